"""Terms of the objective beside the gate: sequence ratio, KL, entropy bonus, correction weights.

In: packed [K] tensors of one micro-batch. Out: tensors. Pure: knows nothing of configuration, models, ranks or logging.
Where a token's loss weight is 0, its entries never reach a value or a gradient, whatever they hold.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gates.loss import LOG_RATIO_LIMIT, where_trained

KlEstimator = Literal["k1", "k2", "k3"]
Correction = Literal["tis", "mis"]


def sequence_log_ratio(logprobs: Tensor, old_logprobs: Tensor, *, sequence_index: Tensor, trained: Tensor) -> Tensor:
    """Mean of logprobs - old_logprobs over each token's sequence: log s_i of GSPO (arXiv 2507.18071 eq. 7). All [K].

    sequence_index: [K] in 0..K-1; sequences must be whole. The mean is over trained [K] (bool) tokens; its gradient
    flows into the logprobs of all of them, with factor 1 / |o_i| each.
    """
    log_ratio = _difference(logprobs, old_logprobs.detach(), trained)
    empty = torch.zeros_like(log_ratio.detach())  # at most K sequences, so that no size is read back from a GPU
    sums = empty.index_add(0, sequence_index, log_ratio)
    lengths = empty.index_add(0, sequence_index, trained.to(log_ratio.dtype))
    return (sums / lengths.clamp(min=1.0))[sequence_index]


def token_kl(logprobs: Tensor, reference_logprobs: Tensor, *, estimator: KlEstimator, trained: Tensor) -> Tensor:
    """Estimate of KL(policy || reference) at each token, nats, [K]; x = logprobs - reference_logprobs.

    k1: x. k2: x^2 / 2. k3: exp(-x) - 1 + x (joschu.net/blog/kl-approx.html). Gradient by logprobs: 1; x; 1 - exp(-x).
    x is limited to +-20 as log-ratios are, and 0 where not trained.
    """
    x = _difference(logprobs, reference_logprobs.detach(), trained).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    match estimator:
        case "k1":
            return x
        case "k2":
            return x.square() / 2.0
        case "k3":
            return torch.expm1(-x) + x
    raise ValueError(f"estimator={estimator!r}: must be k1, k2 or k3")


def weighted_sum(values: Tensor, loss_weights: Tensor) -> Tensor:
    """Scalar sum of loss weight * value over tokens whose weight is not 0; gradient flows into values only."""
    return (loss_weights.detach() * where_trained(loss_weights != 0, values, values.dtype)).sum()


@dataclass(frozen=True, kw_only=True, slots=True)
class CorrectionWeights:
    """Detached factors of the loss weights."""

    weights: Tensor  # [K]
    limited: Tensor  # [K] bool, tokens beyond the cap: cut to it (tis) or left out (mis)


def correction_weights(
    old_logprobs: Tensor, rollout_logprobs: Tensor, *, kind: Correction, cap: float, trained: Tensor
) -> CorrectionWeights:
    """w = pi_old / pi_rollout of each token; tis: min(w, cap), mis: w within [1 / cap, cap] and 0 outside. All [K].

    The log of w is limited to +-20 and 0 where not trained.
    """
    log_weight = _difference(old_logprobs, rollout_logprobs, trained).detach()
    weights = torch.exp(log_weight.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    match kind:
        case "tis":
            return CorrectionWeights(weights=weights.clamp(max=cap), limited=weights > cap)
        case "mis":
            outside = (weights > cap) | (weights < 1.0 / cap)
            return CorrectionWeights(weights=weights.masked_fill(outside, 0.0), limited=outside)
    raise ValueError(f"kind={kind!r}: must be tis or mis")


def _difference(first: Tensor, second: Tensor, trained: Tensor) -> Tensor:
    """first - second in float32 or wider; 0 where not trained."""
    dtype = torch.promote_types(first.dtype, torch.float32)
    return where_trained(trained, first, dtype) - where_trained(trained, second, dtype)
