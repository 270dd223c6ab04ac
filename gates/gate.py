"""Gates as objects: f and f' of a ratio, with parameters that differ by the sign of the advantage.

In: ratio (any shape; bfloat16, float16, float32 or float64) and positive, a bool tensor of that shape, True where the
advantage is > 0. Out: a tensor of the ratio's shape and dtype. The autograd derivative of value is slope, term for
term. This module knows nothing of log-probabilities, losses or configuration files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from gates.checks import check_real, listed, nearest
from gates.power import power_shape
from gates.shapes import SHAPES, GateShape

Curve = Callable[[Tensor, Tensor], Tensor]  # function (ratio, positive) -> tensor like ratio


class Gate(Protocol):
    """A gate as the objective uses it: a name, and f and f' as functions of the ratio."""

    @property
    def name(self) -> str: ...

    def value(self, ratio: Tensor, positive: Tensor) -> Tensor:
        """f(ratio), shape and dtype of ratio."""

    def slope(self, ratio: Tensor, positive: Tensor) -> Tensor:
        """f'(ratio), shape and dtype of ratio."""


class BuiltInGate:
    """A gate of formulas with one parameter, whose value depends on the sign of the advantage."""

    __slots__ = ()

    @property
    def by_sign(self) -> tuple[float, float]:
        """The parameter where the advantage is > 0, and elsewhere."""
        raise NotImplementedError

    def value(self, ratio: Tensor, positive: Tensor) -> Tensor:
        """f(ratio), shape and dtype of ratio."""
        result: Tensor = _ValueWithSlope.apply(_widen(ratio), positive, self._value, self._slope)
        return result.to(ratio.dtype)

    def slope(self, ratio: Tensor, positive: Tensor) -> Tensor:
        """f'(ratio), in [0, 1], shape and dtype of ratio; 1 at ratio 1."""
        return self._slope(_widen(ratio), positive).to(ratio.dtype)

    def _parameter(self, ratio: Tensor, positive: Tensor) -> Tensor:
        if_positive, otherwise = self.by_sign
        return torch.where(positive, ratio.new_full((), if_positive), ratio.new_full((), otherwise))

    def _value(self, ratio: Tensor, positive: Tensor) -> Tensor:
        raise NotImplementedError

    def _slope(self, ratio: Tensor, positive: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftGate(BuiltInGate):
    """A smooth gate: tau_pos where the advantage is > 0, tau_neg elsewhere (paper eq. 3).

    Raises ValueError unless both are finite and > 0.
    """

    shape: GateShape
    tau_pos: float
    tau_neg: float

    def __post_init__(self) -> None:
        check_real("tau_pos", self.tau_pos, above=0.0)
        check_real("tau_neg", self.tau_neg, above=0.0)

    @property
    def name(self) -> str:
        return self.shape.name

    @property
    def by_sign(self) -> tuple[float, float]:
        return self.tau_pos, self.tau_neg

    def _value(self, ratio: Tensor, positive: Tensor) -> Tensor:
        return self.shape.value(ratio, self._parameter(ratio, positive))

    def _slope(self, ratio: Tensor, positive: Tensor) -> Tensor:
        return self.shape.slope(ratio, self._parameter(ratio, positive))


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipGate(BuiltInGate):
    """GRPO's clip (paper eq. 1): min(r A, clip(r, 1 - epsilon_low, 1 + epsilon_high) A) / A.

    The slope is 1 where the ratio is inside its bound or on it, 0 where it is clipped. Raises ValueError unless
    epsilon_low lies in (0, 1) and epsilon_high is finite and > 0.
    """

    epsilon_low: float
    epsilon_high: float

    def __post_init__(self) -> None:
        check_real("epsilon_low", self.epsilon_low, above=0.0, below=1.0)
        check_real("epsilon_high", self.epsilon_high, above=0.0)

    @property
    def name(self) -> str:
        return "clip"

    @property
    def by_sign(self) -> tuple[float, float]:
        """The bounds: the upper one where the advantage is > 0, the lower one elsewhere."""
        return 1.0 + self.epsilon_high, 1.0 - self.epsilon_low

    def _value(self, ratio: Tensor, positive: Tensor) -> Tensor:
        bound = self._parameter(ratio, positive)
        return torch.where(positive, torch.minimum(ratio, bound), torch.maximum(ratio, bound))

    def _slope(self, ratio: Tensor, positive: Tensor) -> Tensor:
        bound = self._parameter(ratio, positive)
        return torch.where(positive, ratio <= bound, ratio >= bound).to(ratio.dtype)


PARAMETERS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(SHAPES, ("tau_pos", "tau_neg")),
    "power": ("tau_pos", "tau_neg", "p"),
    "clip": ("epsilon_low", "epsilon_high"),
}
GATES: tuple[str, ...] = tuple(PARAMETERS)


def get_gate(name: str, **parameters: float) -> Gate:
    """Builds the gate of this name.

    A soft gate needs tau_pos and tau_neg, power also p, and clip epsilon_low and epsilon_high.

    Raises ValueError, one line, for an unknown gate or parameter (with the nearest known name), a missing one, or a
    value out of range.
    """
    if name not in GATES:
        raise ValueError(f"gate={name!r}: unknown gate, allowed are {', '.join(GATES)}{nearest(name, GATES)}")
    known = PARAMETERS[name]
    for parameter, value in parameters.items():
        if parameter not in known:
            raise ValueError(f"{parameter}={value!r}: gate {name} takes {listed(known)}{nearest(parameter, known)}")
    for parameter in known:
        if parameter not in parameters:
            raise ValueError(f"{parameter}: missing, gate {name} needs {listed(known)}")
    if name == "clip":
        return ClipGate(**parameters)
    shape = power_shape(parameters.pop("p")) if name == "power" else SHAPES[name]
    return SoftGate(shape=shape, **parameters)


def built_in_gates(*, tau_pos: float = 10.0, tau_neg: float = 12.0) -> dict[str, Gate]:
    """Every built-in gate by name, at the paper's temperatures or others; power with p = 2, clip at 1 +- 0.2."""
    soft = {name: {"tau_pos": tau_pos, "tau_neg": tau_neg} for name in (*SHAPES, "power")}
    soft["power"]["p"] = 2.0
    parameters = soft | {"clip": {"epsilon_low": 0.2, "epsilon_high": 0.2}}
    return {name: get_gate(name, **given) for name, given in parameters.items()}


class _ValueWithSlope(torch.autograd.Function):
    """The function value(ratio), with slope(ratio) as its derivative.

    Autograd of the formulas of f would lose all digits far from 1, where softsign subtracts two nearly equal terms and
    sigmoid rounds to 1. It would also halve the gradient of a minimum where both sides are equal.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(ratio: Tensor, positive: Tensor, value: Curve, slope: Curve) -> Tensor:
        return value(ratio, positive)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Curve, Curve], output: Tensor) -> None:
        ratio, positive, _, ctx.slope = inputs
        ctx.save_for_backward(ratio, positive)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        ratio, positive = ctx.saved_tensors
        return grad_outputs[0] * ctx.slope(ratio, positive), None, None, None


def _widen(ratio: Tensor) -> Tensor:
    """The tensor for computing: half precisions become float32, float32 and float64 stay."""
    return ratio.to(torch.promote_types(ratio.dtype, torch.float32))
