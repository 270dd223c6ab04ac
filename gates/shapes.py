"""The soft gates as formulas: value f and slope f' at a ratio, for a temperature tau (arXiv 2602.19345).

In: tensors ratio and tau of one shape (or broadcastable) and one float dtype. Out: tensors of that dtype.
This module knows nothing of advantages; gate.py decides which tau applies to which token.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class GateShape:
    """Formulas of one gate: f and f' as functions of (ratio, tau). f' is 1 at ratio 1 and falls on both sides."""

    name: str
    value: Callable[[Tensor, Tensor], Tensor]
    slope: Callable[[Tensor, Tensor], Tensor]
    half_width: float  # tau |ratio - 1| at which the slope is 1/2


def sigmoid_value(ratio: Tensor, tau: Tensor) -> Tensor:
    """f = (4 / tau) sigmoid(tau (r - 1)), eq. 3."""
    return (4.0 / tau) * torch.sigmoid(tau * (ratio - 1.0))


def sigmoid_slope(ratio: Tensor, tau: Tensor) -> Tensor:
    """f' = 4 s (1 - s) with s = sigmoid(tau (r - 1)), eq. 5."""
    # 4 s (1 - s) = sech(tau (r - 1) / 2)^2; far above 1 the left side loses all digits, because s rounds to 1
    return torch.cosh(0.5 * tau * (ratio - 1.0)).reciprocal().square()


def erf_value(ratio: Tensor, tau: Tensor) -> Tensor:
    """f = 1 + sqrt(pi / (2 tau^2)) erf(tau (r - 1) / sqrt 2), eq. 6."""
    return 1.0 + math.sqrt(math.pi / 2.0) / tau * torch.erf(tau * (ratio - 1.0) / math.sqrt(2.0))


def erf_slope(ratio: Tensor, tau: Tensor) -> Tensor:
    """f' = exp(-tau^2 (r - 1)^2 / 2), eq. 6."""
    return torch.exp(-0.5 * (tau * (ratio - 1.0)).square())


def arctan_value(ratio: Tensor, tau: Tensor) -> Tensor:
    """f = 1 + arctan(tau (r - 1)) / tau, eq. 7."""
    return 1.0 + torch.atan(tau * (ratio - 1.0)) / tau


def arctan_slope(ratio: Tensor, tau: Tensor) -> Tensor:
    """f' = 1 / (1 + tau^2 (r - 1)^2), eq. 7."""
    return (1.0 + (tau * (ratio - 1.0)).square()).reciprocal()


def softsign_value(ratio: Tensor, tau: Tensor) -> Tensor:
    """f = 1 + (r - 1) / sqrt(1 + tau^2 (r - 1)^2), eq. 8."""
    return 1.0 + (ratio - 1.0) * torch.rsqrt(1.0 + (tau * (ratio - 1.0)).square())


def softsign_slope(ratio: Tensor, tau: Tensor) -> Tensor:
    """f' = (1 + tau^2 (r - 1)^2)^(-3/2), eq. 8."""
    return (1.0 + (tau * (ratio - 1.0)).square()).pow(-1.5)


SHAPES: dict[str, GateShape] = {
    shape.name: shape
    for shape in (
        GateShape(
            name="sigmoid", value=sigmoid_value, slope=sigmoid_slope, half_width=2.0 * math.acosh(math.sqrt(2.0))
        ),
        GateShape(name="erf", value=erf_value, slope=erf_slope, half_width=math.sqrt(2.0 * math.log(2.0))),
        GateShape(name="arctan", value=arctan_value, slope=arctan_slope, half_width=1.0),
        GateShape(
            name="softsign", value=softsign_value, slope=softsign_slope, half_width=math.sqrt(2.0 ** (2.0 / 3.0) - 1.0)
        ),
    )
}
