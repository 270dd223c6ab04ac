"""The gated objective: packed [T] tensors in, scalar loss and detached per-token quantities out (arXiv 2602.19345).

Knows nothing of models, micro-batches or ranks: loss_weights were fixed over the global minibatch, so losses and
gradients of its parts just add up.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gates import Gate

# exp(20) = 4.9e8: its square and its product with any tau, advantage or weight of ours stay finite in float32,
# and a token whose probability changed that much carries no usable signal
LOG_RATIO_LIMIT = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveMetrics:
    """What the objective saw, per token and detached; entries where trained is False mean nothing."""

    trained: Tensor  # [T] bool, loss weight not 0
    log_ratio: Tensor  # [T] logprobs - old_logprobs, clamped
    ratio: Tensor  # [T] exp(log_ratio)
    slope: Tensor  # [T] f'(ratio)
    gate_weight: Tensor  # [T] f'(ratio) * ratio, the factor of advantage * grad logprob


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveOutput:
    """The loss to call backward on, and what the statistics need."""

    loss: Tensor  # scalar, gradient flows into logprobs only
    metrics: ObjectiveMetrics


def gated_objective(
    *, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, loss_weights: Tensor, gate: Gate
) -> ObjectiveOutput:
    """loss = - sum over tokens of loss_weight * f(ratio) * advantage, with ratio = exp(logprobs - old_logprobs).

    All tensors are [T]. Computes in float32, in float64 where logprobs is float64. A token of loss weight 0 contributes
    exactly 0 to loss and gradient, whatever its other entries hold (inf and nan too). Raises ValueError where the
    shapes differ.
    """
    given = {"old_logprobs": old_logprobs, "advantages": advantages, "loss_weights": loss_weights}
    for name, tensor in given.items():
        if tensor.shape != logprobs.shape:
            raise ValueError(
                f"{name} of shape {tuple(tensor.shape)}: must have the shape of logprobs, {tuple(logprobs.shape)}"
            )
    dtype = torch.promote_types(logprobs.dtype, torch.float32)
    trained = loss_weights != 0
    weights = loss_weights.detach().to(dtype)
    current = _where_trained(trained, logprobs, dtype)
    old = _where_trained(trained, old_logprobs.detach(), dtype)
    advantage = _where_trained(trained, advantages.detach(), dtype)
    positive = advantage > 0

    log_ratio = (current - old).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    ratio = torch.exp(log_ratio)
    loss = -(weights * gate.value(ratio, positive) * advantage).sum()

    slope = gate.slope(ratio.detach(), positive)
    metrics = ObjectiveMetrics(
        trained=trained,
        log_ratio=log_ratio.detach(),
        ratio=ratio.detach(),
        slope=slope,
        gate_weight=slope * ratio.detach(),
    )
    return ObjectiveOutput(loss=loss, metrics=metrics)


def _where_trained(trained: Tensor, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Zero where not trained, chosen before any arithmetic: nan * 0 would be nan, in the gradient as well."""
    return torch.where(trained, tensor, torch.zeros_like(tensor)).to(dtype)
