"""The gated loss of packed tokens, written as the equation: the reference that every kernel must equal.

In: packed [T] tensors and a gate. Out: the loss to call backward on, ratios and slopes token by token, and sums of
them. This module knows nothing of models, groups or ranks.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gates.gate import Gate

# exp(20) = 4.9e8. Its square and its products with any tau, advantage or weight of ours stay finite in float32,
# and a token whose probability changed that much carries no usable signal
LOG_RATIO_LIMIT = 20.0

# Sums over the trained tokens, in this order. ratio_excess is ratio - 1, so that the variance of ratios near 1
# keeps its digits. gate_weight is f'(ratio) * ratio, the factor of advantage * grad logprob (paper eq. 4).
TOTALS = ("tokens", "ratio_excess", "ratio_excess_squared", "gate_weight", "gate_weight_squared")


@dataclass(frozen=True, kw_only=True, slots=True)
class GateMetrics:
    """The gate's effect, token by token and in sums; all detached. Slopes of untrained tokens have no meaning."""

    trained: Tensor  # [T] bool, True where the loss weight is not 0
    log_ratio: Tensor  # [T] logprobs - old_logprobs, clamped; 0 where not trained
    slope: Tensor  # [T] f'(ratio)
    totals: Tensor  # [len(TOTALS)] float64, sums named by TOTALS
    largest_log_ratio: Tensor  # scalar float64, largest over the trained tokens; -inf without any

    @property
    def ratio(self) -> Tensor:
        """Importance ratios [T], exp(log_ratio)."""
        return torch.exp(self.log_ratio)


@dataclass(frozen=True, kw_only=True, slots=True)
class GateLoss:
    """The loss to call backward on, and the metrics of the gate."""

    loss: Tensor  # scalar, - sum of loss weight * f(ratio) * advantage; has a gradient for logprobs only
    metrics: GateMetrics


class LossFunction(Protocol):
    """The interface of reference_loss here and of fused_loss in kernels.py."""

    def __call__(
        self, *, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, loss_weights: Tensor, gate: Gate
    ) -> GateLoss: ...


def reference_loss(
    *, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, loss_weights: Tensor, gate: Gate
) -> GateLoss:
    """The gated loss, - sum of loss_weight * f(ratio) * advantage with ratio = exp(logprobs - old_logprobs), eq. 2.

    All tensors are [T]. Computes in float32, in float64 if logprobs is float64. A token of loss weight 0 contributes
    exactly 0 to loss, gradient and totals, whatever its other entries hold (inf and nan too).
    """
    dtype = torch.promote_types(logprobs.dtype, torch.float32)
    trained = loss_weights != 0
    weights = loss_weights.detach().to(dtype)
    current = where_trained(trained, logprobs, dtype)
    old = where_trained(trained, old_logprobs.detach(), dtype)
    advantage = where_trained(trained, advantages.detach(), dtype)
    positive = advantage > 0

    log_ratio = (current - old).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    ratio = torch.exp(log_ratio)
    loss = -(weights * gate.value(ratio, positive) * advantage).sum()

    slope = gate.slope(ratio.detach(), positive)
    candidates = torch.where(trained, log_ratio.detach().double(), -torch.inf)
    metrics = GateMetrics(
        trained=trained,
        log_ratio=log_ratio.detach(),
        slope=slope,
        totals=_totals(trained, ratio.detach(), slope),
        largest_log_ratio=torch.cat([candidates, candidates.new_full((1,), -torch.inf)]).max(),
    )
    return GateLoss(loss=loss, metrics=metrics)


def effective_update_ratio(slope_sums: Tensor, token_counts: Tensor) -> float:
    """EUR (eq. 12): mean over the groups that have tokens of the group's token mean of the slope; both [num_groups]."""
    present = token_counts > 0
    return float((slope_sums[present] / token_counts[present]).mean())


def where_trained(trained: Tensor, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor with zeros where not trained, selected before any arithmetic: nan * 0 is nan, in the gradient too."""
    return torch.where(trained, tensor, torch.zeros_like(tensor)).to(dtype)


def _totals(trained: Tensor, ratio: Tensor, slope: Tensor) -> Tensor:
    excess = torch.where(trained, ratio.double() - 1.0, 0.0)
    gate_weight = torch.where(trained, slope.double() * ratio.double(), 0.0)
    sums = (trained.sum(), excess.sum(), excess.square().sum(), gate_weight.sum(), gate_weight.square().sum())
    return torch.stack([total.double() for total in sums])
