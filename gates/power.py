"""The power family: slope (1 + tau^2 (r - 1)^2)^(-p), a polynomial tail of any order 2 p.

p = 1 is arctan and p = 3/2 softsign (arXiv 2602.19345, eqs. 7 and 8). At tau / sqrt(2 p) in place of tau the slope
approaches erf's as p grows. In: tensors ratio and tau. Out: tensors of the ratio's dtype. The value is computed in
float64.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor

from gates.checks import check_real
from gates.shapes import GateShape

LARGEST_P = 50.0  # bound on p - 1/2 steps of the recursion; at it the slope is 1e-15 where tau |r - 1| = 1
# Both series have coefficients of at most 1 / (2 n) and an argument of at most 1/2. The terms after the 48th add up to
# less than 2^-48 / 48, below the rounding of the sum, which is at least 0.7.
NUM_TERMS = 48

FloatOrTensor = TypeVar("FloatOrTensor", float, Tensor)


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerCurve:
    """A formula of (ratio, tau, p) for one p. Two of the same p are equal, which functools.partial would not be."""

    formula: Callable[[Tensor, Tensor, float], Tensor]
    p: float

    def __call__(self, ratio: Tensor, tau: Tensor) -> Tensor:
        return self.formula(ratio, tau, self.p)


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerShape(GateShape):
    """One member of the power family."""

    p: float  # half the order of the tail


def power_shape(p: float) -> PowerShape:
    """The shape with slope (1 + tau^2 (r - 1)^2)^(-p). Raises ValueError unless p lies in (1/2, LARGEST_P].

    At p <= 1/2 ratio * slope does not fall to 0, condition (iv) of the paper's section 4.
    """
    check_real("p", p, above=0.5, below=LARGEST_P, closed=True)
    return PowerShape(
        name="power",
        value=PowerCurve(formula=power_value, p=p),
        slope=PowerCurve(formula=power_slope, p=p),
        half_width=math.sqrt(2.0 ** (1.0 / p) - 1.0),
        p=p,
    )


def power_slope(ratio: Tensor, tau: Tensor, p: float) -> Tensor:
    """f' = (1 + tau^2 (r - 1)^2)^(-p)."""
    return (1.0 + (tau * (ratio - 1.0)).square()).pow(-p)


def power_value(ratio: Tensor, tau: Tensor, p: float) -> Tensor:
    """f = 1 + F(tau (r - 1)) / tau with F = power_integral; f(1) = 1."""
    tau = tau.double()
    return (1.0 + power_integral(tau * (ratio.double() - 1.0), p) / tau).to(ratio.dtype)


def power_integral(y: Tensor, p: float) -> Tensor:
    """F_p(y), the integral of (1 + s^2)^(-p) from 0 to y; y float64, p in (1/2, LARGEST_P].

    Integration by parts gives 2 k F_(k+1) = (2 k - 1) F_k + y (1 + y^2)^(-k). Both terms have the sign of y, so
    no digit is lost in the recursion, which starts at the k in (1/2, 3/2] that differs from p by an integer.
    """
    num_steps = math.ceil(p - 1.5)
    lowest = p - num_steps
    shrink = (1.0 + y.square()).reciprocal()
    integral = _lowest_integral(y, lowest)
    edge = y * shrink.pow(lowest)
    for step in range(num_steps):
        k = lowest + step
        integral = ((2.0 * k - 1.0) * integral + edge) / (2.0 * k)
        edge = edge * shrink
    return integral


def _lowest_integral(y: Tensor, p: float) -> Tensor:
    """F_p(y) for p in (1/2, 3/2]."""
    if p == 1.0:
        return torch.atan(y)
    sine = y * torch.rsqrt(1.0 + y.square())
    if p == 1.5:
        return sine
    # F = sine 2F1(1/2, 3/2 - p; 3/2; sine^2): a Pfaff transformation of the series in -y^2, positive in every term
    near = sine * _polynomial(_near_coefficients(p), sine.square())
    far = _join(p) + _rise(p, torch.log1p(y.square()))
    return torch.where(y.abs() <= 1.0, near, torch.copysign(far, y))


def _rise(p: float, log_growth: Tensor) -> Tensor:
    """F_p(|y|) for |y| >= 1, up to a constant; log_growth is log(1 + y^2).

    The rest of the integral, from |y| to infinity, is z^e (1 / (2 e) + H(z)) with z = 1 / (1 + y^2), e = p - 1/2 and H
    the sum over n >= 1 of (1/2)_n / n! z^n / (2 e + 2 n). Written with expm1, 1 / (2 e), which is large for p near
    1/2, drops out of the difference.
    """
    e = p - 0.5
    tail = torch.exp(-e * log_growth) * _polynomial(_far_coefficients(p), torch.exp(-log_growth))
    return -torch.expm1(-e * log_growth) / (2.0 * e) - tail


@cache
def _join(p: float) -> float:
    """The constant missing in _rise, from y = 1, where both formulas hold and z = sine^2 = 1/2."""
    near = math.sqrt(0.5) * _polynomial(_near_coefficients(p), 0.5)
    return near - _rise(p, torch.tensor(math.log(2.0), dtype=torch.float64)).item()


@cache
def _near_coefficients(p: float) -> tuple[float, ...]:
    """Coefficients (3/2 - p)_n / (n! (2 n + 1)) for n = 0, 1, ..."""
    return tuple(rising / (2 * n + 1) for n, rising in enumerate(_rising_factorials(1.5 - p)))


@cache
def _far_coefficients(p: float) -> tuple[float, ...]:
    """Coefficients 0, then (1/2)_n / (n! (2 p - 1 + 2 n)) for n = 1, 2, ..."""
    terms = enumerate(_rising_factorials(0.5))
    return tuple(rising / (2.0 * p - 1.0 + 2 * n) if n else 0.0 for n, rising in terms)


def _rising_factorials(a: float) -> Iterator[float]:
    """Coefficients (a)_n / n! for n < NUM_TERMS; at most 1 for a in [0, 1]."""
    return accumulate(range(NUM_TERMS - 1), lambda factor, n: factor * (a + n) / (1.0 + n), initial=1.0)


def _polynomial(coefficients: Sequence[float], z: FloatOrTensor) -> FloatOrTensor:
    """Sum of coefficients[n] z^n, by Horner's rule."""
    result = 0.0 * z
    for coefficient in reversed(coefficients):
        result = result * z + coefficient
    return result
