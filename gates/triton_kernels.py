"""The fused kernel on an NVIDIA GPU: loss, gradient and totals of a gate in one pass, one program a block of tokens.

In: the [T] tensors of gates.loss.reference_loss, detached, on a CUDA device, and a gate. Out: the same figures. The
only module that imports triton, and imported only where a CUDA device comes. It knows nothing of autograd.
"""

# Triton reads the annotations of a kernel's parameters as its own types.
# mypy: disable-error-code="no-untyped-def"

import torch
import triton
import triton.language as tl
from triton.language.extra import libdevice

from gates.cpu_kernels import Tensors
from gates.gate import BuiltInGate, SoftGate
from gates.loss import LOG_RATIO_LIMIT, TOTALS
from gates.power import power_shape
from gates.shapes import SHAPES

BLOCK_TOKENS = 1024
FORMULAS = ("sigmoid", "erf", "arctan", "softsign", "clip")  # names; the index of a gate is its GATE in the kernel

_LIMIT = tl.constexpr(LOG_RATIO_LIMIT)
_SIGMOID, _ERF, _ARCTAN, _SOFTSIGN, _CLIP = (tl.constexpr(place) for place in range(len(FORMULAS)))
_SQRT_HALF = tl.constexpr(0.7071067811865476)
_SQRT_HALF_PI = tl.constexpr(1.2533141373155003)


def has_formula(gate: BuiltInGate) -> bool:
    """Whether the kernel has the gate: every built-in one but power, of which it has only p = 1 and p = 3/2."""
    return _formula_of(gate) is not None


def sweep(inputs: Tensors, outputs: Tensors, gate: BuiltInGate) -> Tensors:
    """The pass of cpu_kernels.sweep on a GPU; the sums of a block are float64, and torch adds the blocks' sums."""
    formula = _formula_of(gate)
    assert formula is not None, gate
    log_ratio, slope, trained, *gradients = outputs
    num_tokens = trained.numel()
    num_blocks = max(1, triton.cdiv(num_tokens, BLOCK_TOKENS))
    partials = torch.empty(len(TOTALS) + 2, num_blocks, dtype=torch.float64, device=trained.device)
    if_positive, otherwise = gate.by_sign
    with torch.cuda.device_of(trained):  # triton launches on the current device
        _sweep_block[(num_blocks,)](
            *(column.contiguous() for column in inputs),
            log_ratio,
            slope,
            trained.view(torch.uint8),
            gradients[0] if gradients else slope,
            partials,
            num_tokens,
            *_high_and_low(if_positive),
            *_high_and_low(otherwise),
            GATE=FORMULAS.index(formula),
            DTYPE=tl.float64 if slope.dtype == torch.float64 else tl.float32,
            WITH_GRADIENT=bool(gradients),
            BLOCK=BLOCK_TOKENS,
        )
    sums = partials[:-1].sum(1)
    return -sums[-1], sums[:-1], partials[-1].max()


def _formula_of(gate: BuiltInGate) -> str | None:
    if not isinstance(gate, SoftGate):
        return "clip"
    shapes = (*SHAPES.items(), ("arctan", power_shape(1.0)), ("softsign", power_shape(1.5)))
    return next((name for name, shape in shapes if shape == gate.shape), None)


def _high_and_low(number: float) -> tuple[float, float]:
    """Two float32 numbers that add up to the number in float64; Triton passes arguments as float32."""
    high = torch.tensor(number, dtype=torch.float32).item()
    return high, number - high


@triton.jit
def _sweep_block(
    logprobs,
    old_logprobs,
    advantages,
    loss_weights,
    log_ratios,
    slopes,
    trained_flags,
    gradients,
    partials,
    num_tokens,
    positive_high,
    positive_low,
    otherwise_high,
    otherwise_low,
    GATE: tl.constexpr,
    DTYPE: tl.constexpr,
    WITH_GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Computes BLOCK tokens: four outputs, and a column of sums (TOTALS, weight * advantage * f, largest log-ratio)."""
    places = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = places < num_tokens
    weight = tl.load(loss_weights + places, mask=exists, other=0.0)
    trained = weight != 0
    current = _trained_entries(logprobs, places, exists, trained, DTYPE)
    old = _trained_entries(old_logprobs, places, exists, trained, DTYPE)
    advantage = _trained_entries(advantages, places, exists, trained, DTYPE)
    positive = advantage > 0
    parameter = tl.where(
        positive, _joined(positive_high, positive_low, DTYPE), _joined(otherwise_high, otherwise_low, DTYPE)
    )

    unlimited = current - old
    log_ratio = tl.where(unlimited > _LIMIT, _LIMIT, tl.where(unlimited < -_LIMIT, -_LIMIT, unlimited))  # keeps nan
    ratio = tl.exp(log_ratio)
    value = _value(ratio, parameter, positive, GATE)
    slope = _slope(ratio, parameter, positive, GATE)
    scale = weight.to(DTYPE) * advantage
    gate_weight = slope * ratio

    tl.store(log_ratios + places, log_ratio, mask=exists)
    tl.store(slopes + places, slope, mask=exists)
    tl.store(trained_flags + places, trained.to(tl.uint8), mask=exists)
    if WITH_GRADIENT:
        inside = tl.abs(unlimited) <= _LIMIT
        tl.store(gradients + places, tl.where(inside, -scale * gate_weight, 0.0), mask=exists)

    excess = tl.where(trained, ratio.to(tl.float64) - 1.0, 0.0)
    wide_gate_weight = tl.where(trained, slope.to(tl.float64) * ratio.to(tl.float64), 0.0)
    _put_sum(partials, 0, trained.to(tl.float64))
    _put_sum(partials, 1, excess)
    _put_sum(partials, 2, excess * excess)
    _put_sum(partials, 3, wide_gate_weight)
    _put_sum(partials, 4, wide_gate_weight * wide_gate_weight)
    _put_sum(partials, 5, (scale * value).to(tl.float64))
    largest = tl.max(tl.where(trained, log_ratio, float("-inf")))
    tl.store(partials + 6 * tl.num_programs(0) + tl.program_id(0), largest.to(tl.float64))


@triton.jit
def _joined(high, low, DTYPE: tl.constexpr):
    return tl.full((), high, DTYPE) + tl.full((), low, DTYPE)


@triton.jit
def _trained_entries(column, places, exists, trained, DTYPE: tl.constexpr):
    """The entries of trained tokens, 0 elsewhere; selected, not multiplied, because nan * 0 is nan."""
    return tl.where(trained, tl.load(column + places, mask=exists, other=0.0).to(DTYPE), 0.0)


@triton.jit
def _put_sum(partials, row, terms):
    tl.store(partials + row * tl.num_programs(0) + tl.program_id(0), tl.sum(terms))


@triton.jit
def _value(ratio, parameter, positive, GATE: tl.constexpr):
    """Value f(ratio) of eqs. 3 and 6 to 8, and of eq. 1 for clip, whose parameter is its bound."""
    y = parameter * (ratio - 1.0)
    if GATE == _SIGMOID:
        decay = tl.exp(-tl.abs(y))
        return 4.0 / parameter * tl.where(y > 0, 1.0, decay) / (1.0 + decay)
    elif GATE == _ERF:
        return 1.0 + _SQRT_HALF_PI * tl.erf(y * _SQRT_HALF) / parameter
    elif GATE == _ARCTAN:
        return 1.0 + libdevice.atan(y) / parameter
    elif GATE == _SOFTSIGN:
        return 1.0 + (ratio - 1.0) * tl.rsqrt(1.0 + y * y)
    else:
        is_clipped = tl.where(positive, ratio > parameter, ratio < parameter)
        return tl.where(is_clipped, parameter, ratio)


@triton.jit
def _slope(ratio, parameter, positive, GATE: tl.constexpr):
    """Slope f'(ratio)."""
    y = parameter * (ratio - 1.0)
    if GATE == _SIGMOID:
        decay = tl.exp(-tl.abs(y))
        return 4.0 * decay / ((1.0 + decay) * (1.0 + decay))
    elif GATE == _ERF:
        return tl.exp(-0.5 * y * y)
    elif GATE == _ARCTAN:
        return 1.0 / (1.0 + y * y)
    elif GATE == _SOFTSIGN:
        root = tl.rsqrt(1.0 + y * y)
        return root * root * root
    else:
        is_inside = tl.where(positive, ratio <= parameter, ratio >= parameter)
        return is_inside.to(ratio.dtype)
