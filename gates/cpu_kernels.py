"""The fused kernel on a CPU: loss, gradient and totals of a gate in one pass, a cache-sized chunk at a time.

In: the [T] tensors of gates.loss.reference_loss, detached, and a gate. Out: the same figures, with no intermediate
larger than a chunk. This module knows nothing of autograd, and of gates only the built-in ones.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gates.gate import BuiltInGate, SoftGate
from gates.loss import LOG_RATIO_LIMIT, TOTALS
from gates.power import PowerShape, power_shape
from gates.shapes import SHAPES, GateShape

CHUNK_TOKENS = 65_536  # fastest size of 4k to 256k: some forty calls cost little, and a chunk stays in the cache


@dataclass(frozen=True, kw_only=True, slots=True)
class Scratch:
    """Buffers of one chunk of N tokens, in the compute dtype unless a comment says otherwise; reused by every chunk."""

    ratio: Tensor  # [N] importance ratio
    tau: Tensor  # [N] tau of each token's sign
    value: Tensor  # [N] f(ratio)
    spare: Tensor  # [N] intermediate results
    scale: Tensor  # [N] loss weight * advantage
    summed: Tensor  # [3, N] ratio - 1, gate weight, scale * value
    wide: Tensor  # [3, N] float64, copy of summed
    if_positive: Tensor  # [N] tau_pos for every token
    otherwise: Tensor  # [N] tau_neg for every token
    kept: Tensor  # [N] integer of the dtype's width, all bits set where trained
    one: Tensor  # scalar 1
    zero: Tensor  # scalar 0


Tensors = tuple[Tensor, ...]
Curve = Callable[[Scratch, Tensor], None]  # function that fills scratch.value and its argument, the slope [N]


def sweep(inputs: Tensors, outputs: Tensors, gate: BuiltInGate) -> Tensors:
    """Fills the outputs; returns loss, TOTALS and largest log-ratio, in float64.

    inputs: logprobs, old_logprobs, advantages and loss_weights, each [T]. outputs: log_ratio and slope of GateMetrics
    in the compute dtype, its trained, and the gradient of the loss by logprobs if it is wanted.
    """
    columns, curve, scratch = (*inputs, *outputs), _curve_of(gate), None
    loss, totals, largest = 0.0, [0.0] * len(TOTALS), [-math.inf]
    for start in range(0, inputs[0].numel(), CHUNK_TOKENS):
        chunk = tuple(column[start : start + CHUNK_TOKENS] for column in columns)
        if scratch is None or scratch.ratio.shape != chunk[0].shape:
            scratch = _scratch(chunk[0].numel(), gate, outputs[0].dtype)
        sums, top = _sweep_chunk(chunk, curve, scratch)
        loss -= sums[0]
        totals = [total + part for total, part in zip(totals, sums[1:], strict=True)]
        largest.append(top)
    found = [torch.tensor(numbers, dtype=torch.float64) for numbers in (loss, totals, largest)]
    return found[0], found[1], found[2].max()  # torch's max, because that of a list hides nan


def _sweep_chunk(chunk: Tensors, curve: Curve, scratch: Scratch) -> tuple[tuple[float, ...], float]:
    """Fills the chunk's outputs; returns (sum of loss weight * advantage * f, and TOTALS; largest log-ratio)."""
    logprobs, old_logprobs, advantages, loss_weights, log_ratio, slope, trained, *rest = chunk
    num_tokens = trained.numel()
    trained.copy_(loss_weights)  # True where != 0 or nan; seven times as fast as torch.ne
    num_trained = int(torch.count_nonzero(trained))
    all_trained = num_trained == num_tokens

    torch.sub(_as(scratch.ratio, logprobs), _as(scratch.spare, old_logprobs), out=log_ratio)
    advantage = _as(scratch.value, advantages)
    torch.mul(_as(scratch.spare, loss_weights), advantage, out=scratch.scale)
    if not all_trained:
        torch.neg(scratch.kept.copy_(trained), out=scratch.kept)
        _keep(scratch.kept, log_ratio, scratch.scale)
    outside, top = _limit(log_ratio)
    if not all_trained and not top > 0.0:
        top = float(log_ratio[trained].max()) if num_trained else -math.inf

    torch.gt(advantage, 0, out=scratch.spare)
    torch.lerp(scratch.otherwise, scratch.if_positive, scratch.spare, out=scratch.tau)  # exact at the weights 0 and 1
    torch.exp(log_ratio, out=scratch.ratio)
    excess, gate_weight, weighted_value = scratch.summed
    torch.sub(scratch.ratio, scratch.one, out=excess)
    curve(scratch, slope)
    torch.mul(slope, scratch.ratio, out=gate_weight)
    torch.mul(scratch.scale, scratch.value, out=weighted_value)
    for gradient in rest:
        torch.addcmul(scratch.zero, scratch.scale, gate_weight, value=-1.0, out=gradient)
        if outside is not None:
            gradient.masked_fill_(outside, 0.0)
    if not all_trained:
        _keep(scratch.kept, gate_weight)

    scratch.wide.copy_(scratch.summed)
    sums = scratch.wide.sum(1).tolist()
    squares = [float(torch.dot(row, row)) for row in scratch.wide[:2]]
    return (sums[2], float(num_trained), sums[0], squares[0], sums[1], squares[1]), top


def _keep(kept: Tensor, *tensors: Tensor) -> None:
    """Sets entries that are not kept to 0, by bits: nan * 0 is nan, and torch.where takes five times as long."""
    for tensor in tensors:
        tensor.view(kept.dtype).bitwise_and_(kept)


def _as(buffer: Tensor, tensor: Tensor) -> Tensor:
    """The tensor in the buffer's dtype: the tensor itself, or its copy in the buffer."""
    return tensor if tensor.dtype == buffer.dtype else buffer.copy_(tensor)


def _limit(log_ratio: Tensor) -> tuple[Tensor | None, float]:
    """Clamps log_ratio in place; returns the mask of clamped entries (None if there are none) and the largest entry."""
    low, high = (float(extreme) for extreme in torch.aminmax(log_ratio))
    if low >= -LOG_RATIO_LIMIT and high <= LOG_RATIO_LIMIT:
        return None, high
    inside = log_ratio.abs() <= LOG_RATIO_LIMIT  # False for nan, as in the derivative of torch's clamp
    log_ratio.clamp_(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return ~inside, float(log_ratio.max())


def _scratch(num_tokens: int, gate: BuiltInGate, dtype: torch.dtype) -> Scratch:
    if_positive, otherwise = gate.by_sign
    ratio, tau, value, spare, scale = torch.empty(5, num_tokens, dtype=dtype)
    return Scratch(
        ratio=ratio,
        tau=tau,
        value=value,
        spare=spare,
        scale=scale,
        summed=torch.empty(3, num_tokens, dtype=dtype),
        wide=torch.empty(3, num_tokens, dtype=torch.float64),
        if_positive=torch.full((num_tokens,), if_positive, dtype=dtype),
        otherwise=torch.full((num_tokens,), otherwise, dtype=dtype),
        kept=torch.empty(num_tokens, dtype=torch.int64 if dtype == torch.float64 else torch.int32),
        one=torch.ones((), dtype=dtype),
        zero=torch.zeros((), dtype=dtype),
    )


def _curve_of(gate: BuiltInGate) -> Curve:
    if not isinstance(gate, SoftGate):
        return _clip
    shape = gate.shape
    if isinstance(shape, PowerShape) and shape == power_shape(shape.p) and (2.0 * shape.p).is_integer():
        return _power(shape.p)
    for name, curve in _CURVES.items():
        if shape == SHAPES[name]:
            return curve
    return _any_shape(shape)


def _any_shape(shape: GateShape) -> Curve:
    def fill(scratch: Scratch, slope: Tensor) -> None:
        slope.copy_(shape.slope(scratch.ratio, scratch.tau))
        scratch.value.copy_(shape.value(scratch.ratio, scratch.tau))

    return fill


def _sigmoid(scratch: Scratch, slope: Tensor) -> None:
    """Sigmoid gate, eqs. 3 and 5; s (1 - s) is sigmoid(y) sigmoid(-y), which keeps its digits on both sides."""
    torch.mul(scratch.summed[0], scratch.tau, out=scratch.value)
    torch.neg(scratch.value, out=slope).sigmoid_()
    scratch.value.sigmoid_()
    slope.mul_(scratch.value).mul_(4.0)
    torch.addcdiv(scratch.zero, scratch.value, scratch.tau, value=4.0, out=scratch.value)


def _erf(scratch: Scratch, slope: Tensor) -> None:
    """Erf gate, eq. 6."""
    y = torch.mul(scratch.summed[0], scratch.tau, out=scratch.spare)
    torch.addcmul(scratch.zero, y, y, value=-0.5, out=slope).exp_()
    y.mul_(math.sqrt(0.5)).erf_()
    torch.addcdiv(scratch.one, y, scratch.tau, value=math.sqrt(math.pi / 2.0), out=scratch.value)


def _arctan(scratch: Scratch, slope: Tensor) -> None:
    """Arctan gate, eq. 7."""
    y = torch.mul(scratch.summed[0], scratch.tau, out=scratch.spare)
    torch.addcmul(scratch.one, y, y, out=slope).reciprocal_()
    torch.addcdiv(scratch.one, y.atan_(), scratch.tau, out=scratch.value)


def _softsign(scratch: Scratch, slope: Tensor) -> None:
    """Softsign gate, eq. 8."""
    y = torch.mul(scratch.summed[0], scratch.tau, out=scratch.spare)
    root = torch.addcmul(scratch.one, y, y, out=scratch.value).rsqrt_()
    torch.mul(root, root, out=slope).mul_(root)
    torch.addcmul(scratch.one, scratch.summed[0], root, out=scratch.value)


def _power(p: float) -> Curve:
    """Power gate for whole 2 p: gates.power.power_integral, whose lowest member then needs no series."""
    num_steps = math.ceil(p - 1.5)
    lowest = p - num_steps

    def fill(scratch: Scratch, slope: Tensor) -> None:
        y = torch.mul(scratch.summed[0], scratch.tau, out=scratch.spare)
        integral, shrink = scratch.value, scratch.summed[1]
        torch.addcmul(scratch.one, y, y, out=shrink).reciprocal_()
        if lowest == 1.0:
            slope.copy_(shrink)
            torch.atan(y, out=integral)
        else:
            torch.sqrt(shrink, out=slope)
            torch.mul(y, slope, out=integral)
            slope.mul_(shrink)
        for k in (lowest + step for step in range(num_steps)):
            integral.mul_(2.0 * k - 1.0).addcmul_(y, slope).div_(2.0 * k)
            slope.mul_(shrink)
        torch.addcdiv(scratch.one, integral, scratch.tau, out=integral)

    return fill


def _clip(scratch: Scratch, slope: Tensor) -> None:
    """Clip, eq. 1. tau is the bound, from above where the advantage is > 0; there spare is 1, elsewhere 0."""
    torch.minimum(scratch.ratio, scratch.tau, out=scratch.value)
    torch.maximum(scratch.ratio, scratch.tau, out=slope)
    torch.lerp(slope, scratch.value, scratch.spare, out=scratch.value)
    torch.eq(scratch.value, scratch.ratio, out=slope)


_CURVES: dict[str, Curve] = {"sigmoid": _sigmoid, "erf": _erf, "arctan": _arctan, "softsign": _softsign}
