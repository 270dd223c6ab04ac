"""Gates loaded by name: with and without a slope, and every way in which a factory can be wrong."""

import math
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gates import check_admissible, get_gate
from gates.custom import NamedGate, ValueGate, load_gate

MODULE = """
from dataclasses import dataclass

import torch

from gates import get_gate


@dataclass(frozen=True)
class Tanh:
    tau: float

    def value(self, ratio, positive):
        return torch.tanh(self.tau * (ratio - 1)) / self.tau


@dataclass(frozen=True)
class Cauchy:
    tau: float

    def value(self, ratio, positive):
        return torch.atan(self.tau * (ratio - 1)) / self.tau

    def slope(self, ratio, positive):
        return 1 / (1 + (self.tau * (ratio - 1)) ** 2)


class Named(Tanh):
    name = "my tanh"


class Wrong:
    def __init__(self, value):
        self.value = value


class WrongSlope(Tanh):
    def slope(self, ratio, positive):
        return ratio.mean()


def tanh(tau):
    return Tanh(tau)


def refuses(tau):
    raise ValueError(f"tau={tau}: too strange")


def softsign(tau):
    return get_gate("softsign", tau_pos=tau, tau_neg=tau)


def nothing():
    return None


def sums():
    return Wrong(lambda ratio, positive: ratio.sum())


def halves():
    return Wrong(lambda ratio, positive: ratio.bfloat16())


def numbers():
    return Wrong(lambda ratio, positive: 1.0)


def short():
    return Wrong(lambda ratio: ratio)


def detached():
    return Wrong(lambda ratio, positive: ratio.detach())


constant = 3
"""
RATIO = torch.tensor([0.0, 0.5, 1.0, 1.5, 4.0], dtype=torch.float64)
POSITIVE = torch.tensor([True, False, True, False, True])


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_gates.py").write_text(MODULE)
    (tmp_path / "own_broken.py").write_text("import no_such_library_at_all\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_gates", None)


def test_gate_with_a_value_only_gets_its_slope_by_autograd() -> None:
    gate = load_gate("own_gates:tanh", {"tau": 5.0})
    assert isinstance(gate, ValueGate)
    assert gate.name == "tanh"
    expected = [1 / math.cosh(5 * (ratio - 1)) ** 2 for ratio in RATIO.tolist()]
    with torch.no_grad():
        slope = gate.slope(RATIO, POSITIVE)
    assert slope.tolist() == pytest.approx(expected, rel=1e-6)
    assert not slope.requires_grad
    assert check_admissible(gate).admissible
    sigmoid = get_gate("sigmoid", tau_pos=10.0, tau_neg=10.0)
    torch.testing.assert_close(slope, sigmoid.slope(RATIO, POSITIVE), rtol=1e-6, atol=1e-15)


def test_asking_for_the_slope_leaves_the_callers_graph_alone() -> None:
    gate = load_gate("own_gates:tanh", {"tau": 5.0})
    ratio = RATIO.clone().requires_grad_()
    assert not gate.slope(ratio, POSITIVE).requires_grad
    assert ratio.grad is None
    gate.value(ratio, POSITIVE).sum().backward()
    assert ratio.grad is not None
    assert torch.equal(ratio.grad, gate.slope(ratio, POSITIVE))


def test_gate_with_a_slope_is_taken_as_it_is_but_for_the_name() -> None:
    gate = load_gate("own_gates:Cauchy", {"tau": 2.0})
    assert isinstance(gate, NamedGate)
    assert gate.name == "Cauchy"
    arctan = get_gate("arctan", tau_pos=2.0, tau_neg=2.0)
    torch.testing.assert_close(gate.slope(RATIO, POSITIVE), arctan.slope(RATIO, POSITIVE))
    torch.testing.assert_close(gate.value(RATIO, POSITIVE) + 1, arctan.value(RATIO, POSITIVE))
    assert load_gate("own_gates:Named", {"tau": 2.0}).name == "my tanh"
    assert load_gate("own_gates:softsign", {"tau": 2.0}) == get_gate("softsign", tau_pos=2.0, tau_neg=2.0)


def test_loaded_gates_travel_by_pickle() -> None:
    for factory in ("own_gates:tanh", "own_gates:Cauchy"):
        gate = load_gate(factory, {"tau": 5.0})
        assert pickle.loads(pickle.dumps(gate)) == gate  # noqa: S301  our own bytes


@pytest.mark.parametrize(
    ("factory", "parameters", "message"),
    [
        ("own_gates", {}, 'must be of the form "package.module:function"'),
        ("own_gates:", {}, 'must be of the form "package.module:function"'),
        (":tanh", {}, 'must be of the form "package.module:function"'),
        ("no_such_module:make", {}, "cannot import no_such_module, must be a module on the Python path"),
        (".relative:make", {}, 'must be of the form "package.module:function"'),
        ("own_broken:make", {}, "cannot import own_broken.*no_such_library_at_all"),
        ("own_gates:tahn", {}, "own_gates has no tahn; did you mean tanh"),
        ("own_gates:constant", {}, "is a int, must be a function that makes a gate"),
        ("own_gates:tanh", {"teu": 1.0}, "does not take teu=1.0: .*unexpected keyword argument 'teu'"),
        ("own_gates:tanh", {}, "does not take no parameters: .*missing 1 required"),
        ("own_gates:nothing", {}, r"returned NoneType, must return an object with value\(ratio, positive\)"),
        ("own_gates:sums", {}, r"value turns torch.float32 \[4\] into torch.float32 \[\], must keep"),
        ("own_gates:halves", {}, r"value turns torch.float32 \[4\] into torch.bfloat16 \[4\], must keep"),
        ("own_gates:numbers", {}, "value returned float, must return a tensor"),
        ("own_gates:short", {}, r"value does not take \(ratio, positive\): .* takes 1 positional argument"),
        ("own_gates:detached", {}, "value does not depend on ratio for autograd, must be differentiable"),
        ("own_gates:WrongSlope", {"tau": 1.0}, r"slope turns torch.float32 \[4\] into torch.float32 \[\], must keep"),
    ],
)
def test_mistakes_are_named_in_one_line(factory: str, parameters: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^gate.factory='{factory}': {message}") as caught:
        load_gate(factory, parameters)
    assert "\n" not in str(caught.value)


def test_what_the_factory_itself_refuses_passes_through() -> None:
    with pytest.raises(ValueError, match=r"^tau=3\.0: too strange$"):
        load_gate("own_gates:refuses", {"tau": 3.0})
