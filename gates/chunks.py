"""The gated loss on a CPU in one pass: a chunk of tokens stays in the cache until all about it is known.

In: packed [T] tensors and a built-in gate. Out: the loss, its gradient as the paper's eq. 4 writes it, and the metrics,
without a graph and without a [T] intermediate. What they have to equal is gates/loss.py.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gates.curves import Curve, curve_of
from gates.gate import ClipGate, SoftGate
from gates.loss import LOG_RATIO_LIMIT, TOTALS, GateMetrics

CHUNK = (
    65_536  # tokens for each thread: 1.8 MB of buffers. Fewer lose to the 80 us of calls a chunk, more leave the cache
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """What a loss function is given, [T] each."""

    logprobs: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    loss_weights: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """To compute in: float32, float64 where logprobs is float64."""
        return torch.promote_types(self.logprobs.dtype, torch.float32)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """A loss, and what its backward needs."""

    loss: Tensor  # scalar in the dtype of the computation
    ascent: Tensor  # [T] minus the derivative of loss by logprobs, same dtype: weight * advantage * slope * ratio
    metrics: GateMetrics


@dataclass(frozen=True, kw_only=True, slots=True)
class _Outputs:
    """Of T tokens, or of one chunk."""

    ascent: Tensor  # [N]
    log_ratio: Tensor  # [N]
    slope: Tensor  # [N]
    trained: Tensor  # [N] bool

    def part(self, start: int, end: int) -> "_Outputs":
        return _Outputs(
            ascent=self.ascent[start:end],
            log_ratio=self.log_ratio[start:end],
            slope=self.slope[start:end],
            trained=self.trained[start:end],
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Buffers:
    """Scratch of one chunk, used for every chunk again."""

    ratio: Tensor  # [N]
    excess: Tensor  # [N] ratio - 1
    choice: Tensor  # [N] 1 where the advantage is > 0, else 0; soft gates turn it into tau
    factor: Tensor  # [N] weight * advantage
    value: Tensor  # [N]
    wide: Tensor  # [N] float64

    def first(self, length: int) -> "_Buffers":
        if length == len(self.ratio):
            return self
        return _Buffers(**{name: getattr(self, name)[:length] for name in self.__slots__})


@torch.no_grad()
def evaluate_in_chunks(tokens: Tokens, gate: SoftGate | ClipGate) -> Evaluation:
    """Equals gates.loss.reference_loss up to the rounding of tokens.dtype; loss and totals are summed in float64."""
    num_tokens, dtype = len(tokens.logprobs), tokens.dtype
    length = max(min(CHUNK * torch.get_num_threads(), num_tokens), 1)
    outputs = _Outputs(
        ascent=torch.empty(num_tokens, dtype=dtype),
        log_ratio=torch.empty(num_tokens, dtype=dtype),
        slope=torch.empty(num_tokens, dtype=dtype),
        trained=torch.empty(num_tokens, dtype=torch.bool),
    )
    ratio, excess, choice, factor, value = torch.empty(5, length, dtype=dtype)
    wide = torch.empty(length, dtype=torch.float64)
    buffers = _Buffers(ratio=ratio, excess=excess, choice=choice, factor=factor, value=value, wide=wide)
    curve = curve_of(gate)
    rows = [[0.0] * (len(TOTALS) + 1)]
    largest = [-math.inf]
    for start in range(0, num_tokens, length):
        end = min(start + length, num_tokens)
        part = Tokens(**{name: getattr(tokens, name)[start:end] for name in tokens.__slots__})
        row, high = _chunk(part, curve, buffers.first(end - start), outputs.part(start, end))
        rows.append(row)
        largest.append(high)
    *totals, objective = torch.tensor(rows, dtype=torch.float64).sum(0)
    metrics = GateMetrics(
        trained=outputs.trained,
        log_ratio=outputs.log_ratio,
        slope=outputs.slope,
        totals=torch.stack(totals),
        largest_log_ratio=torch.tensor(largest, dtype=torch.float64).max(),
    )
    return Evaluation(loss=-objective.to(dtype), ascent=outputs.ascent, metrics=metrics)


def _chunk(tokens: Tokens, curve: Curve, buffers: _Buffers, outputs: _Outputs) -> tuple[list[float], float]:
    """Fills outputs; gives the sums of TOTALS and of the objective, and the largest log-ratio."""
    dtype, ratio, excess = tokens.dtype, buffers.ratio, buffers.excess
    untrained = _mark_trained(tokens.loss_weights, buffers.excess, outputs.trained)
    torch.sub(tokens.logprobs.to(dtype), tokens.old_logprobs.to(dtype), out=outputs.log_ratio)
    advantages = tokens.advantages.to(dtype)
    torch.mul(tokens.loss_weights.to(dtype), advantages, out=buffers.factor)
    if untrained is not None:
        outputs.log_ratio.masked_fill_(untrained, 0.0)
        buffers.factor.masked_fill_(untrained, 0.0)
    outside, largest = _limit(outputs.log_ratio)
    if untrained is not None:
        largest = outputs.log_ratio.masked_fill(untrained, -math.inf).max().item()

    torch.exp(outputs.log_ratio, out=ratio)
    torch.sub(ratio, 1.0, out=excess)
    torch.gt(advantages, 0.0, out=buffers.choice)
    curve(ratio, excess, buffers.choice, buffers.value, outputs.slope)

    gate_weight = torch.mul(outputs.slope, ratio, out=ratio)
    if untrained is not None:
        gate_weight.masked_fill_(untrained, 0.0)
    torch.mul(buffers.factor, gate_weight, out=outputs.ascent)
    if outside is not None:
        outputs.ascent.masked_fill_(outside, 0.0)
    num_trained = len(ratio) if untrained is None else len(ratio) - int(untrained.sum())
    row = [float(num_trained), *_sums(excess, buffers.wide), *_sums(gate_weight, buffers.wide)]
    objective = buffers.wide.copy_(buffers.factor.mul_(buffers.value)).sum().item()
    return [*row, objective], largest


def _mark_trained(loss_weights: Tensor, scratch: Tensor, trained: Tensor) -> Tensor | None:
    """Fills trained; gives the mask of the other tokens, None where there is none: most chunks need no masks at all.

    Comparisons that write floats are vectorised in torch 2.13, those that write bools take five times as long.
    """
    if torch.ne(loss_weights, 0.0, out=scratch).sum().item() == len(loss_weights):
        trained.fill_(True)
        return None
    torch.ne(loss_weights, 0.0, out=trained)
    return trained.logical_not()


def _limit(log_ratio: Tensor) -> tuple[Tensor | None, float]:
    """Clamps in place; gives the mask of what was outside or nan, None where nothing was, and the largest entry."""
    low, high = (bound.item() for bound in torch.aminmax(log_ratio))
    if low >= -LOG_RATIO_LIMIT and high <= LOG_RATIO_LIMIT:
        return None, high
    inside = (log_ratio >= -LOG_RATIO_LIMIT) & (log_ratio <= LOG_RATIO_LIMIT)
    log_ratio.clamp_(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return inside.logical_not_(), log_ratio.max().item()


def _sums(column: Tensor, wide: Tensor) -> tuple[float, float]:
    """Of the entries and of their squares, in float64."""
    wide.copy_(column)
    return wide.sum().item(), torch.dot(wide, wide).item()
