"""Value and slope of the built-in gates together, in place: what gates/shapes.py says, with the common terms once.

In: buffers of one chunk of tokens. Out: the same buffers, filled. Allocates nothing and uses no bool tensors, which
torch does not vectorise on the CPU.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gates.gate import ClipGate, SoftGate
from gates.shapes import SHAPES, GateShape

# (ratio, excess, choice, value, slope), [N] each: excess is ratio - 1, choice 1 where the advantage is > 0 and else 0.
# Fills value and slope, may spoil choice.
Curve = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]
# (excess, tau, value, slope): fills value and slope.
Formula = Callable[[Tensor, Tensor, Tensor, Tensor], None]


def curve_of(gate: SoftGate | ClipGate) -> Curve:
    """The gate as a curve: a formula written for speed where its shape has one, else the shape's own functions."""
    if isinstance(gate, ClipGate):
        return _ClipCurve(low=1.0 - gate.epsilon_low, high=1.0 + gate.epsilon_high)
    formula = _FORMULAS.get(gate.shape.name)
    if formula is None or gate.shape != SHAPES[gate.shape.name]:
        return _ShapeCurve(shape=gate.shape, tau_pos=gate.tau_pos, tau_neg=gate.tau_neg)
    return _SoftCurve(formula=formula, tau_pos=gate.tau_pos, tau_neg=gate.tau_neg)


@dataclass(frozen=True, kw_only=True, slots=True)
class _SoftCurve:
    formula: Formula
    tau_pos: float
    tau_neg: float

    def __call__(self, ratio: Tensor, excess: Tensor, choice: Tensor, value: Tensor, slope: Tensor) -> None:
        self.formula(excess, _choose(choice, self.tau_pos, self.tau_neg), value, slope)


@dataclass(frozen=True, kw_only=True, slots=True)
class _ShapeCurve:
    shape: GateShape
    tau_pos: float
    tau_neg: float

    def __call__(self, ratio: Tensor, excess: Tensor, choice: Tensor, value: Tensor, slope: Tensor) -> None:
        tau = _choose(choice, self.tau_pos, self.tau_neg)
        value.copy_(self.shape.value(ratio, tau))
        slope.copy_(self.shape.slope(ratio, tau))


@dataclass(frozen=True, kw_only=True, slots=True)
class _ClipCurve:
    low: float
    high: float

    def __call__(self, ratio: Tensor, excess: Tensor, choice: Tensor, value: Tensor, slope: Tensor) -> None:
        """f = min(r, high) where the advantage is > 0, else max(r, low), eq. 1; f' = 1 where that changes nothing."""
        torch.clamp(ratio, max=self.high, out=value).mul_(choice)
        torch.clamp(ratio, min=self.low, out=slope).mul_(choice.neg_().add_(1.0))
        torch.eq(value.add_(slope), ratio, out=slope)


def _choose(choice: Tensor, if_one: float, if_zero: float) -> Tensor:
    """if_one where choice is 1 and if_zero where it is 0, exactly, in place of choice; both are > 0."""
    if if_one >= if_zero:
        return choice.mul_(if_one).clamp_(min=if_zero)
    return choice.mul_(-if_zero).add_(if_zero).clamp_(min=if_one)


def _sigmoid(excess: Tensor, tau: Tensor, value: Tensor, slope: Tensor) -> None:
    """f = (4 / tau) s and f' = 4 s (1 - s) with s = sigmoid(tau (r - 1)), eqs. 3 and 5."""
    torch.mul(excess, tau, out=slope)
    torch.sigmoid(slope, out=value)
    # 1 - s as sigmoid(-x), which keeps its digits where s rounds to 1
    slope.neg_().sigmoid_().mul_(value.mul_(4.0))
    value.div_(tau)


def _erf(excess: Tensor, tau: Tensor, value: Tensor, slope: Tensor) -> None:
    """f = 1 + sqrt(pi / (2 tau^2)) erf(tau (r - 1) / sqrt 2) and f' = exp(-tau^2 (r - 1)^2 / 2), eq. 6."""
    torch.mul(excess, tau, out=slope)
    torch.mul(slope, math.sqrt(0.5), out=value)
    value.erf_().mul_(math.sqrt(math.pi / 2.0)).div_(tau).add_(1.0)
    slope.square_().mul_(-0.5).exp_()


def _arctan(excess: Tensor, tau: Tensor, value: Tensor, slope: Tensor) -> None:
    """f = 1 + arctan(tau (r - 1)) / tau and f' = 1 / (1 + tau^2 (r - 1)^2), eq. 7."""
    torch.mul(excess, tau, out=slope)
    torch.atan(slope, out=value).div_(tau).add_(1.0)
    slope.square_().add_(1.0).reciprocal_()


def _softsign(excess: Tensor, tau: Tensor, value: Tensor, slope: Tensor) -> None:
    """f = 1 + (r - 1) q and f' = q^3 with q = (1 + tau^2 (r - 1)^2)^(-1/2), eq. 8."""
    torch.mul(excess, tau, out=slope)
    slope.square_().add_(1.0).rsqrt_()
    torch.mul(excess, slope, out=value).add_(1.0)
    slope.pow_(3)


_FORMULAS: dict[str, Formula] = {"sigmoid": _sigmoid, "erf": _erf, "arctan": _arctan, "softsign": _softsign}
