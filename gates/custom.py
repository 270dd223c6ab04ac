"""Gates of the user's own, built by a factory that the configuration names.

In: "package.module:function" and its parameters. Out: a gate like the built-in ones. Checks that the factory can be
called and that its gate keeps shape and dtype; admissibility.py checks whether the formula is admissible.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gates.checks import nearest
from gates.gate import Curve, Gate

PROBE = ((0.5, True), (1.0, True), (1.5, False), (3.0, False))  # (ratio, advantage > 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class NamedGate:
    """A gate that has no name, under the name of its factory."""

    gate: Any  # object with value(ratio, positive) and, but for a ValueGate, slope(ratio, positive)
    name: str

    def value(self, ratio: Tensor, positive: Tensor) -> Tensor:
        """f(ratio), shape and dtype of ratio."""
        value: Tensor = self.gate.value(ratio, positive)
        return value

    def slope(self, ratio: Tensor, positive: Tensor) -> Tensor:
        """f'(ratio), shape and dtype of ratio."""
        slope: Tensor = self.gate.slope(ratio, positive)
        return slope


@dataclass(frozen=True, kw_only=True, slots=True)
class ValueGate(NamedGate):
    """A gate that has only a value; its slope is computed by autograd."""

    def slope(self, ratio: Tensor, positive: Tensor) -> Tensor:
        """f'(ratio), shape and dtype of ratio, detached; correct if value works element by element."""
        with torch.enable_grad():
            ratio = ratio.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.gate.value(ratio, positive).sum(), ratio)
        return gradient


def load_gate(factory: str, parameters: Mapping[str, float]) -> Gate:
    """The gate that factory(**parameters) returns; factory is "package.module:function".

    The result must have value(ratio, positive), differentiable by autograd. Without a slope it gets one by autograd,
    and without a name that of the function. Raises ValueError, one line, if the factory cannot be found or called, or
    if its gate does not keep shape and dtype. Other errors of the module or the factory pass through.
    """
    try:
        return _load(factory, parameters)
    except _Mistake as mistake:
        raise ValueError(f"gate.factory={factory!r}: {mistake}") from mistake


class _Mistake(Exception):
    """What is wrong with a factory or its gate."""


def _load(factory: str, parameters: Mapping[str, float]) -> Gate:
    function = _find(factory)
    try:
        result = function(**parameters)
    except TypeError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in parameters.items()) or "no parameters"
        raise _Mistake(f"does not take {given}: {_one_line(error)}") from error
    if not callable(getattr(result, "value", None)):
        raise _Mistake(f"returned {type(result).__name__}, must return an object with value(ratio, positive)")
    own_name = getattr(result, "name", None)
    name = own_name if isinstance(own_name, str) else factory.rpartition(":")[2]
    gate: Gate = result
    if not callable(getattr(result, "slope", None)):
        gate = ValueGate(gate=result, name=name)
    elif name != own_name:
        gate = NamedGate(gate=result, name=name)
    for dtype in (torch.float32, torch.float64):
        _check_probe(gate, dtype)
    return gate


def _find(factory: str) -> Callable[..., Any]:
    module_name, colon, path = factory.partition(":")
    if not (colon and path and module_name and module_name[0] != "."):
        raise _Mistake('must be of the form "package.module:function"')
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise _Mistake(
            f"cannot import {module_name}, must be a module on the Python path: {_one_line(error)}"
        ) from error
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            meant = nearest(attribute, dir(found))
            raise _Mistake(f"{module_name} has no {path}{meant or ', must name a function'}")
        found = getattr(found, attribute)
    if not callable(found):
        raise _Mistake(f"is a {type(found).__name__}, must be a function that makes a gate")
    function: Callable[..., Any] = found
    return function


def _check_probe(gate: Gate, dtype: torch.dtype) -> None:
    """Refuses a gate unless it keeps shape and dtype of a few ratios, and autograd can differentiate its value."""
    ratio = torch.tensor([ratio for ratio, _ in PROBE], dtype=dtype, requires_grad=True)
    positive = torch.tensor([sign for _, sign in PROBE])
    with torch.enable_grad():
        value = _probed("value", gate.value, ratio, positive)
    if not value.requires_grad:
        raise _Mistake("value does not depend on ratio for autograd, must be differentiable")
    _probed("slope", gate.slope, ratio.detach(), positive)


def _probed(name: str, curve: Curve, ratio: Tensor, positive: Tensor) -> Tensor:
    try:
        result: Any = curve(ratio, positive)
    except TypeError as error:
        raise _Mistake(f"{name} does not take (ratio, positive): {_one_line(error)}") from error
    if not isinstance(result, Tensor):
        raise _Mistake(f"{name} returned {type(result).__name__}, must return a tensor")
    if (result.shape, result.dtype) != (ratio.shape, ratio.dtype):
        raise _Mistake(
            f"{name} turns {ratio.dtype} {list(ratio.shape)} into {result.dtype} {list(result.shape)}, must keep shape "
            "and dtype of ratio"
        )
    return result


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
