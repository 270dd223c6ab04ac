"""Check of a gate against the conditions of the paper (arXiv 2602.19345, section 4), by evaluating the gate.

In: a gate. Out: a report with one line for each violated condition and sign of the advantage. All numbers are float64
on the CPU. The check does not see violations between its points, below a tolerance or beyond FARTHEST: a report without
violations is a measurement, not a proof.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gates.gate import Gate

FARTHEST = 1e12  # largest ratio, a log-ratio of 27.6; the loss clamps at 20
POINTS_PER_DECADE = 200  # points a decade of |ratio - 1| on both sides, which resolve any tau from 1e-6 to 1e6
SPACING = 5e-4  # spacing of the ratios from 0 to 3; a narrower violation can be missed
NUM_HALVINGS = 52  # halvings after which an interval has about the spacing of float64
TOLERANCE = 1e-9  # tolerance of slope(1) and of a rise; a smaller rise is rounding
NOISE = 1e-14  # absolute noise: formulas that subtract, as 4 s (1 - s), leave 1e-16 where the slope is far smaller
LARGEST_JUMP = 1e-6  # change of a continuous slope after the last halving; a derivative of 1e9 would still pass
LARGEST_MISMATCH = 1e-6  # largest difference of slope and the derivative of value
NARROWEST = 1e-7  # width from which on differences of value keep enough digits
LONGEST_FLAT = 0.25  # length in ratio; tops flatter than 1 - y^8 at tau = 0.1 fall, but look constant in float64
FAR = (1e9, FARTHEST)  # ratios between which the order of the tail is measured
SLOWEST = -0.01  # ratio * slope must fall at least as ratio^-0.01: catches 1/x and log(x)/x, lets 1/(x log(x)) pass
NEGLIGIBLE = 1e-12  # ratio * slope at FARTHEST that counts as 0; below it noise hides the exponent
EPSILON = torch.finfo(torch.float64).eps


@dataclass(frozen=True, kw_only=True, slots=True)
class AdmissibilityReport:
    """Violations that check_admissible found."""

    gate: str
    violations: list[str]  # one line each: condition, sign of the advantage, ratio and number; empty where admissible

    @property
    def admissible(self) -> bool:
        return not self.violations


class _Side:
    """The gate for one sign of the advantage, as two functions of a float64 ratio [N], and sampled."""

    def __init__(self, gate: Gate, *, positive: bool) -> None:
        self._gate, self._positive = gate, positive
        self.ratio = _ratios()  # [N] float64, increasing from 0 to FARTHEST
        self.value, self.slope = self.value_at(self.ratio).detach(), self.slope_at(self.ratio)

    def value_at(self, ratio: Tensor) -> Tensor:
        return self._gate.value(ratio, torch.full_like(ratio, self._positive, dtype=torch.bool))

    def slope_at(self, ratio: Tensor) -> Tensor:
        return self._gate.slope(ratio, torch.full_like(ratio, self._positive, dtype=torch.bool)).detach()

    def keep(self, chosen: Tensor) -> None:
        """Drops the samples that are not chosen."""
        self.ratio, self.value, self.slope = self.ratio[chosen], self.value[chosen], self.slope[chosen]


def check_admissible(gate: Gate) -> AdmissibilityReport:
    """Checks conditions (i)-(iv) of the paper's section 4, for A > 0 and for A <= 0.

    (i) f is continuously differentiable: f' does not jump, is the derivative of f, and equals the autograd derivative
    of f; both are finite on [0, FARTHEST]. (ii) f' has its global maximum, equal to 1, at ratio 1. (iii) f' falls
    monotonically away from 1 on both sides; where it has underflown to 0 it may stay there. (iv) ratio * f' falls to 0.
    This is measured by the power of ratio that it follows between 1e9 and 1e12. A power between 0 and -0.01 counts as
    not falling; the power family has it for p < 0.505.
    """
    violations = []
    for positive, sign in ((True, "A > 0"), (False, "A <= 0")):
        for line in _violations(_Side(gate, positive=positive)):
            condition, _, finding = line.partition(" ")
            violations.append(f"{condition} {sign}: {finding}")
    return AdmissibilityReport(gate=gate.name, violations=violations)


def _violations(side: _Side) -> Iterator[str]:
    yield from _not_finite(side)
    side.keep(side.value.isfinite() & side.slope.isfinite())
    if len(side.ratio) > 1:
        for check in (_jump, _difference_mismatch, _autograd_mismatch, _maximum, _not_falling, _slow_tail):
            yield from check(side)


def _ratios() -> Tensor:
    """Increasing ratios [N]: dense around 1 at every scale, dense near 0, an even grid in between, and far out."""
    near = 10.0 ** torch.arange(-9.0, math.log10(FARTHEST), 1.0 / POINTS_PER_DECADE, dtype=torch.float64)
    small = 10.0 ** torch.arange(-8.0, -1.0, 2.0 / POINTS_PER_DECADE, dtype=torch.float64)
    even = torch.arange(0.0, 3.0, SPACING, dtype=torch.float64)
    ends = torch.tensor([0.0, 1.0, FARTHEST], dtype=torch.float64)
    return torch.cat([1.0 - near[near < 1.0], 1.0 + near, small, even, ends]).unique(sorted=True)


def _not_finite(side: _Side) -> Iterator[str]:
    for name, curve in (("value", side.value), ("slope", side.slope)):
        broken = ~curve.isfinite()
        if broken.any():
            at = int(broken.int().argmax())
            yield f"(i) {name} is {curve[at]:g} at ratio {side.ratio[at]:.10g}, must be finite for every ratio >= 0"


def _jump(side: _Side) -> Iterator[str]:
    """Violation of continuity: halves intervals towards their larger change, which vanishes unless the slope jumps."""
    low, high = side.ratio[:-1], side.ratio[1:]
    slope_low, slope_high = side.slope[:-1], side.slope[1:]
    for _ in range(NUM_HALVINGS):
        middle = 0.5 * (low + high)
        slope = side.slope_at(middle)
        in_lower = (slope - slope_low).abs() > (slope_high - slope).abs()
        low, slope_low = torch.where(in_lower, low, middle), torch.where(in_lower, slope_low, slope)
        high, slope_high = torch.where(in_lower, middle, high), torch.where(in_lower, slope, slope_high)
    jump = (slope_high - slope_low).abs()
    worst = int(jump.argmax())
    if jump[worst] > LARGEST_JUMP:
        yield (
            f"(i) slope jumps from {slope_low[worst]:.6g} to {slope_high[worst]:.6g} at ratio {high[worst]:.10g}, "
            "must be continuous"
        )


def _difference_mismatch(side: _Side) -> Iterator[str]:
    """Violation where the rise of value over an interval differs from the mean slope there, by Simpson's rule."""
    low, high = side.ratio[:-1], side.ratio[1:]
    width = high - low
    middle = 0.5 * (low + high)
    trapezoid = 0.5 * (side.slope[:-1] + side.slope[1:])
    simpson = (trapezoid + 2.0 * side.slope_at(middle)) / 3.0
    rise = side.value.diff() / width
    rounding = 16.0 * EPSILON * torch.maximum(side.value[:-1].abs(), side.value[1:].abs()) / width
    # At a kink of the slope Simpson's rule is wrong, by less than its difference from the trapezoid rule.
    allowed = LARGEST_MISMATCH + (simpson - trapezoid).abs() + rounding
    excess = torch.where(width > NARROWEST, (rise - simpson).abs() - allowed, 0.0)
    worst = int(excess.argmax())
    if excess[worst] > 0.0:
        yield (
            f"(i) slope is {simpson[worst]:.6g} at ratio {middle[worst]:.10g} where value rises by {rise[worst]:.6g} "
            "for each unit of ratio, must be the derivative of value"
        )


def _autograd_mismatch(side: _Side) -> Iterator[str]:
    """Violation where slope differs from the autograd gradient of value, which the objective uses."""
    with torch.enable_grad():
        ratio = side.ratio.clone().requires_grad_()
        value = side.value_at(ratio)
    if not value.requires_grad:
        yield "(i) value has no autograd gradient, whatever the ratio, must be differentiable"
        return
    (gradient,) = torch.autograd.grad(value.sum(), ratio)
    excess = ((gradient - side.slope).abs() - LARGEST_MISMATCH).nan_to_num(nan=torch.inf)
    worst = int(excess.argmax())
    if excess[worst] > 0.0:
        yield (
            f"(i) slope is {side.slope[worst]:.6g} at ratio {side.ratio[worst]:.10g} where autograd "
            f"differentiates value to {gradient[worst]:.6g}, must be equal"
        )


def _maximum(side: _Side) -> Iterator[str]:
    at_one = side.slope_at(torch.ones(1, dtype=torch.float64)).item()
    if abs(at_one - 1.0) > TOLERANCE:
        yield f"(ii) slope is {at_one:.10g} at ratio 1, must be 1"
    highest = int(side.slope.argmax())
    if side.slope[highest] > at_one + TOLERANCE:
        yield (
            f"(ii) slope is {side.slope[highest]:.10g} at ratio {side.ratio[highest]:.10g}, above its "
            f"{at_one:.10g} at ratio 1, must have its maximum there"
        )


def _not_falling(side: _Side) -> Iterator[str]:
    below, above = side.ratio <= 1.0, side.ratio >= 1.0
    downwards = (side.ratio[below].flip(0), side.slope[below].flip(0))
    for ratio, slope in (downwards, (side.ratio[above], side.slope[above])):
        if len(ratio) > 1:
            yield from _rise(ratio, slope)
            yield from _flat(ratio, slope)


def _rise(ratio: Tensor, slope: Tensor) -> Iterator[str]:
    """Violation by the largest rise of slope above its lowest value so far; ratio leads away from 1."""
    lowest, where = slope.cummin(0)
    rise = slope - lowest - TOLERANCE * lowest.abs() - NOISE
    worst = int(rise.argmax())
    if rise[worst] > 0.0:
        yield (
            f"(iii) slope rises from {lowest[worst]:.6g} at ratio {ratio[where[worst]]:.10g} to {slope[worst]:.6g} at "
            f"ratio {ratio[worst]:.10g}, must fall away from ratio 1"
        )


def _flat(ratio: Tensor, slope: Tensor) -> Iterator[str]:
    """Violation by the longest stretch of constant slope, up to rounding; ratio leads away from 1."""
    is_flat = (slope.diff().abs() <= 4.0 * EPSILON * slope[1:].abs()) & (slope[1:].abs() > NOISE)
    passed = torch.where(is_flat, ratio.diff().abs(), 0.0).cumsum(0)
    length = passed - torch.where(is_flat, 0.0, passed).cummax(0).values
    end = int(length.argmax())
    if length[end] >= LONGEST_FLAT:
        away = 1.0 if ratio[-1] > 1.0 else -1.0
        yield (
            f"(iii) slope stays at {slope[end + 1]:.6g} from ratio {ratio[end + 1] - away * length[end]:.6g} to ratio "
            f"{ratio[end + 1]:.6g}, must fall away from ratio 1"
        )


def _slow_tail(side: _Side) -> Iterator[str]:
    ratio = torch.tensor(FAR, dtype=torch.float64)
    near, far = (ratio * side.slope_at(ratio)).tolist()
    if not abs(far) > NEGLIGIBLE or not math.isfinite(near) or not math.isfinite(far):
        return
    order = math.log(abs(far / near)) / math.log(FAR[1] / FAR[0]) if near != 0.0 else math.inf
    if order > SLOWEST:
        yield (
            f"(iv) ratio * slope is {far:.6g} at ratio {FARTHEST:g} and follows ratio^{order:.4f}, must fall to 0 "
            f"(here: at least as ratio^{SLOWEST:g})"
        )
