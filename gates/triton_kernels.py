"""The gated loss on an NVIDIA GPU: one triton program reads a block of tokens once and writes all about it.

In: packed [T] tensors and a built-in gate. Out: the loss, its gradient as the paper's eq. 4 writes it, and the metrics,
in float32. What they have to equal is gates/loss.py. Only kernels.py imports this module, when a CUDA tensor comes.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from gates.chunks import Evaluation, Tokens
from gates.gate import ClipGate, SoftGate
from gates.loss import LOG_RATIO_LIMIT, TOTALS, GateMetrics
from gates.power import PowerShape
from gates.shapes import SHAPES, GateShape

BLOCK = 1024  # tokens a program; their float32 sums are off by about 1e-7 of the sum of the magnitudes
LARGEST_P = 10.0  # the recursion that leads from p = 1 or 3/2 upwards is unrolled

# Which formula a program is compiled with
SIGMOID: tl.constexpr = tl.constexpr(0)
ERF: tl.constexpr = tl.constexpr(1)
POWER: tl.constexpr = tl.constexpr(2)
CLIP: tl.constexpr = tl.constexpr(3)

LIMIT: tl.constexpr = tl.constexpr(LOG_RATIO_LIMIT)
NUM_SUMS: tl.constexpr = tl.constexpr(len(TOTALS) + 2)  # TOTALS, the objective, and a maximum: the largest log-ratio
INFINITY: tl.constexpr = tl.constexpr(math.inf)
SQRT_HALF: tl.constexpr = tl.constexpr(math.sqrt(0.5))
SQRT_HALF_PI: tl.constexpr = tl.constexpr(math.sqrt(0.5 * math.pi))
HALF_PI: tl.constexpr = tl.constexpr(0.5 * math.pi)
QUARTER_PI: tl.constexpr = tl.constexpr(0.25 * math.pi)
TAN_3_PI_8: tl.constexpr = tl.constexpr(math.tan(0.375 * math.pi))
TAN_PI_8: tl.constexpr = tl.constexpr(math.tan(0.125 * math.pi))


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelGate:
    """A gate as the kernel takes it."""

    curve: int  # SIGMOID, ERF, POWER or CLIP
    if_positive: float  # tau_pos, or 1 + epsilon_high of the clip
    otherwise: float  # tau_neg, or 1 - epsilon_low
    half_integer: bool = False  # POWER: whether p is 3/2, 5/2, ..
    num_steps: int = 0  # POWER: from 1 or 3/2 up to p


def kernel_gate(gate: SoftGate | ClipGate) -> KernelGate | None:
    """The gate for the kernel; None where its formula is not there, as for the power family with 2 p not an integer."""
    if isinstance(gate, ClipGate):
        return KernelGate(curve=CLIP.value, if_positive=1.0 + gate.epsilon_high, otherwise=1.0 - gate.epsilon_low)
    shape, if_positive, otherwise = gate.shape, gate.tau_pos, gate.tau_neg
    if shape == SHAPES["sigmoid"]:
        return KernelGate(curve=SIGMOID.value, if_positive=if_positive, otherwise=otherwise)
    if shape == SHAPES["erf"]:
        return KernelGate(curve=ERF.value, if_positive=if_positive, otherwise=otherwise)
    p = _exponent(shape)
    if p is None or 2.0 * p != int(2.0 * p) or p > LARGEST_P:
        return None
    return KernelGate(
        curve=POWER.value,
        if_positive=if_positive,
        otherwise=otherwise,
        half_integer=p != int(p),
        num_steps=math.ceil(p - 1.5),
    )


def _exponent(shape: GateShape) -> float | None:
    """p where the slope is (1 + tau^2 (r - 1)^2)^(-p)."""
    if isinstance(shape, PowerShape):
        return shape.p
    if shape == SHAPES["arctan"]:
        return 1.0
    return 1.5 if shape == SHAPES["softsign"] else None


@torch.no_grad()
def evaluate_in_blocks(tokens: Tokens, gate: SoftGate | ClipGate) -> Evaluation:
    """Equals gates.loss.reference_loss up to the rounding of float32, and does not wait for the GPU.

    logprobs must not be float64. largest_log_ratio overlooks nan, loss and totals do not. Raises ValueError where
    kernel_gate has no formula.
    """
    known = kernel_gate(gate)
    if known is None:
        raise ValueError(f"gate {gate.name}: no formula in the triton kernel")
    num_tokens, device = len(tokens.logprobs), tokens.logprobs.device
    num_blocks = triton.cdiv(num_tokens, BLOCK)
    ascent, log_ratio, slope = (torch.empty(num_tokens, dtype=torch.float32, device=device) for _ in range(3))
    trained = torch.empty(num_tokens, dtype=torch.bool, device=device)
    sums = torch.empty(num_blocks, NUM_SUMS.value, dtype=torch.float32, device=device)
    inputs = (tokens.logprobs, tokens.old_logprobs, tokens.advantages, tokens.loss_weights)
    if num_blocks:
        with torch.cuda.device_of(ascent):
            _evaluate_block[(num_blocks,)](
                *(column.contiguous() for column in inputs),
                ascent,
                log_ratio,
                slope,
                trained.view(torch.uint8),  # triton has no stores of a single bit
                sums,
                num_tokens,
                known.if_positive,
                known.otherwise,
                CURVE=known.curve,
                HALF_INTEGER=known.half_integer,
                NUM_STEPS=known.num_steps,
                TOKENS=BLOCK,
            )
    totals = sums[:, :-1].sum(0, dtype=torch.float64)
    metrics = GateMetrics(
        trained=trained,
        log_ratio=log_ratio,
        slope=slope,
        totals=totals[: len(TOTALS)],
        largest_log_ratio=torch.cat([sums[:, -1], sums.new_full((1,), -math.inf)]).max().double(),
    )
    return Evaluation(loss=-totals[len(TOTALS)].float(), ascent=ascent, metrics=metrics)


@triton.jit
def _evaluate_block(
    logprobs_ptr: tl.tensor,
    old_logprobs_ptr: tl.tensor,
    advantages_ptr: tl.tensor,
    loss_weights_ptr: tl.tensor,
    ascent_ptr: tl.tensor,
    log_ratio_ptr: tl.tensor,
    slope_ptr: tl.tensor,
    trained_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    num_tokens: tl.tensor,
    if_positive: tl.tensor,
    otherwise: tl.tensor,
    CURVE: tl.constexpr,
    HALF_INTEGER: tl.constexpr,
    NUM_STEPS: tl.constexpr,
    TOKENS: tl.constexpr,
) -> None:
    block = tl.program_id(0).to(tl.int64)
    place = block * TOKENS + tl.arange(0, TOKENS)
    exists = place < num_tokens
    given_weight = tl.load(loss_weights_ptr + place, mask=exists, other=0.0)
    trained = given_weight != 0.0  # in the dtype given: a small float64 rounds to 0
    weight = given_weight.to(tl.float32)
    current = tl.load(logprobs_ptr + place, mask=exists, other=0.0).to(tl.float32)
    old = tl.load(old_logprobs_ptr + place, mask=exists, other=0.0).to(tl.float32)
    advantage = tl.load(advantages_ptr + place, mask=exists, other=0.0).to(tl.float32)
    advantage = tl.where(trained, advantage, 0.0)
    positive = advantage > 0.0

    given = tl.where(trained, current - old, 0.0)
    inside = (given >= -LIMIT) & (given <= LIMIT)
    log_ratio = tl.where(given > LIMIT, LIMIT, tl.where(given < -LIMIT, -LIMIT, given))
    ratio = tl.exp(log_ratio)
    excess = ratio - 1.0
    parameter = tl.where(positive, if_positive, otherwise)
    if CURVE == SIGMOID:
        value, slope = _sigmoid(excess, parameter)
    elif CURVE == ERF:
        value, slope = _erf(excess, parameter)
    elif CURVE == POWER:
        value, slope = _power(excess, parameter, HALF_INTEGER, NUM_STEPS)
    else:
        value, slope = _clip(ratio, positive, parameter)
    gate_weight = tl.where(trained, slope * ratio, 0.0)
    factor = tl.where(trained, weight * advantage, 0.0)
    excess = tl.where(trained, excess, 0.0)

    tl.store(ascent_ptr + place, tl.where(inside, factor * gate_weight, 0.0), mask=exists)
    tl.store(log_ratio_ptr + place, log_ratio, mask=exists)
    tl.store(slope_ptr + place, slope, mask=exists)
    tl.store(trained_ptr + place, trained.to(tl.uint8), mask=exists)
    row = sums_ptr + block * NUM_SUMS
    tl.store(row, tl.sum(trained.to(tl.float32), axis=0))
    tl.store(row + 1, tl.sum(excess, axis=0))
    tl.store(row + 2, tl.sum(excess * excess, axis=0))
    tl.store(row + 3, tl.sum(gate_weight, axis=0))
    tl.store(row + 4, tl.sum(gate_weight * gate_weight, axis=0))
    tl.store(row + 5, tl.sum(factor * value, axis=0))
    tl.store(row + 6, tl.max(tl.where(trained, log_ratio, -INFINITY), axis=0))


@triton.jit
def _sigmoid(excess: tl.tensor, tau: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """f = (4 / tau) s and f' = 4 s (1 - s) with s = sigmoid(tau (r - 1)), eqs. 3 and 5."""
    x = tau * excess
    decay = tl.exp(-tl.abs(x))
    near_one = 1.0 / (1.0 + decay)  # s for x >= 0, 1 - s for x < 0
    near_zero = decay * near_one
    return (4.0 / tau) * tl.where(x >= 0.0, near_one, near_zero), 4.0 * near_one * near_zero


@triton.jit
def _erf(excess: tl.tensor, tau: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """f = 1 + sqrt(pi / (2 tau^2)) erf(tau (r - 1) / sqrt 2) and f' = exp(-tau^2 (r - 1)^2 / 2), eq. 6."""
    x = tau * excess
    return 1.0 + SQRT_HALF_PI / tau * tl.erf(x * SQRT_HALF), tl.exp(-0.5 * x * x)


@triton.jit
def _power(
    excess: tl.tensor, tau: tl.tensor, HALF_INTEGER: tl.constexpr, NUM_STEPS: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """f = 1 + F(y) / tau and f' = (1 + y^2)^(-p) with y = tau (r - 1): gates/power.py, whose closed forms these are.

    arctan is p = 1 and softsign p = 3/2 (eqs. 7 and 8), without a step of the recursion.
    """
    y = tau * excess
    shrink = 1.0 / (1.0 + y * y)
    if HALF_INTEGER:
        root = tl.sqrt(shrink)
        integral = y * root
        slope = shrink * root
    else:
        integral = _arctan(y)
        slope = shrink
    for step in tl.static_range(NUM_STEPS):
        k = step + (1.5 if HALF_INTEGER else 1.0)
        integral = ((2.0 * k - 1.0) * integral + y * slope) / (2.0 * k)
        slope = slope * shrink
    return 1.0 + integral / tau, slope


@triton.jit
def _arctan(y: tl.tensor) -> tl.tensor:
    """To 2e-7 of itself: Cephes' atanf, in arithmetic that triton's interpreter has, too."""
    size = tl.abs(y)
    far, middle = size > TAN_3_PI_8, size > TAN_PI_8
    base = tl.where(far, HALF_PI, tl.where(middle, QUARTER_PI, 0.0))
    x = tl.where(far, -1.0 / tl.maximum(size, 1.0), tl.where(middle, (size - 1.0) / (size + 1.0), size))
    z = x * x
    series = ((8.05374449538e-2 * z - 1.38776856032e-1) * z + 1.99777106478e-1) * z - 3.33329491539e-1
    result = base + (series * z * x + x)
    return tl.where(y < 0.0, -result, result)


@triton.jit
def _clip(ratio: tl.tensor, positive: tl.tensor, bound: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """f = min(r, bound) where the advantage is > 0, else max(r, bound), eq. 1; f' = 1 where that changes nothing."""
    value = tl.where(tl.where(positive, ratio > bound, ratio < bound), bound, ratio)
    return value, tl.where(value == ratio, 1.0, 0.0)
