"""Each condition of the paper's section 4 on its own: gates that meet all of them, and gates that violate one."""

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from gates import Gate, check_admissible, get_gate
from gates.custom import ValueGate

TAUS = (0.1, 1.0, 10.0, 12.0, 100.0)
SOFT = ("sigmoid", "erf", "arctan", "softsign")
LINE = re.compile(r"\((i|ii|iii|iv)\) A (>|<=) 0: .*\bratio\b.*, must .*")


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenGate:
    """A gate given by its two formulas, the same for both signs."""

    f: Callable[[Tensor], Tensor]
    f_slope: Callable[[Tensor], Tensor]
    name: str = "written"

    def value(self, ratio: Tensor, positive: Tensor) -> Tensor:
        return self.f(ratio)

    def slope(self, ratio: Tensor, positive: Tensor) -> Tensor:
        return self.f_slope(ratio)


def conditions(gate: Gate) -> set[str]:
    report = check_admissible(gate)
    assert report.admissible == (report.violations == [])
    assert all(LINE.fullmatch(line) for line in report.violations), report.violations
    return {line.partition(" ")[0] for line in report.violations}


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("name", SOFT)
def test_the_papers_gates_are_admissible(name: str, tau: float) -> None:
    report = check_admissible(get_gate(name, tau_pos=tau, tau_neg=1.2 * tau))
    assert report.admissible, report.violations
    assert report.gate == name


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("p", [0.51, 0.6, 1.0, 1.5, 2.0, 2.7, 5.0, 50.0])
def test_the_power_family_is_admissible(p: float, tau: float) -> None:
    report = check_admissible(get_gate("power", tau_pos=tau, tau_neg=tau, p=p))
    assert report.admissible, report.violations


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize(
    "formula",
    [
        lambda x, tau: torch.tanh(tau * (x - 1)) / tau,
        lambda x, tau: 1 + (x - 1) / torch.sqrt(1 + (tau * (x - 1)) ** 2),
        lambda x, tau: 4 / tau / (1 + torch.exp(-tau * (x - 1))),
    ],
    ids=["tanh", "softsign", "sigmoid"],
)
def test_formulas_differentiated_term_by_term_pass_in_spite_of_their_rounding(
    formula: Callable[[Tensor, float], Tensor], tau: float
) -> None:
    @dataclass(frozen=True)
    class Formula:
        def value(self, ratio: Tensor, positive: Tensor) -> Tensor:
            return formula(ratio, tau)

    report = check_admissible(ValueGate(gate=Formula(), name="formula"))
    assert report.admissible, report.violations


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.2), (0.2, 0.28), (0.01, 3.0)])
def test_clip_breaks_continuity_at_its_bounds(low: float, high: float) -> None:
    violations = check_admissible(get_gate("clip", epsilon_low=low, epsilon_high=high)).violations
    assert f"(i) A > 0: slope jumps from 1 to 0 at ratio {1 + high:g}, must be continuous" in violations
    assert f"(i) A <= 0: slope jumps from 0 to 1 at ratio {1 - low:g}, must be continuous" in violations


def above_one(x: Tensor) -> Tensor:
    return (x - 1).clamp(min=0.0)


BROKEN = {
    # jumps at 1 from 0 to 1
    "relu": (lambda x: 1 + above_one(x), lambda x: (x > 1).double(), {"(i)", "(ii)", "(iii)", "(iv)"}),
    # falls above 1 only
    "one-sided": (
        lambda x: torch.where(x < 1, x, 1 + torch.atan(above_one(x))),
        lambda x: 1 / (1 + above_one(x) ** 2),
        {"(iii)"},
    ),
    # a small second hill, at 3
    "hills": (
        lambda x: torch.erf(3 * (x - 1)) * math.sqrt(math.pi) / 6 + 0.01 * torch.erf(x - 3) * math.sqrt(math.pi) / 2,
        lambda x: torch.exp(-((3 * (x - 1)) ** 2)) + 0.01 * torch.exp(-((x - 3) ** 2)),
        {"(ii)", "(iii)"},
    ),
    "half as steep": (lambda x: 0.5 * torch.atan(x - 1), lambda x: 0.5 / (1 + (x - 1) ** 2), {"(ii)"}),
    "maximum at 1.1": (lambda x: torch.atan(x - 1.1), lambda x: 1 / (1 + (x - 1.1) ** 2), {"(ii)", "(iii)"}),
    "slow tail": (
        lambda x: torch.where(x < 1, -torch.log(1 + (1 - x).clamp(min=0.0)), torch.log1p(above_one(x))),
        lambda x: 1 / (1 + (x - 1).abs()),
        {"(iv)"},
    ),
    "floor": (
        lambda x: torch.atan(x - 1) + 1e-3 * x,
        lambda x: 1 / (1 + (x - 1) ** 2) + 1e-3,
        {"(ii)", "(iii)", "(iv)"},
    ),
    # a step of 1e-3 in the slope at 1.37, and its ramp in the value
    "step": (
        lambda x: torch.atan(x - 1) - 1e-3 * (x - 1.37).clamp(min=0.0).clamp(max=1e4),
        lambda x: 1 / (1 + (x - 1) ** 2) - 1e-3 * ((x > 1.37) & (x < 1e4 + 1.37)).double(),
        {"(i)", "(iii)"},
    ),
    "slope of another gate": (lambda x: torch.atan(x - 1), lambda x: (1 + (x - 1) ** 2) ** -1.5, {"(i)"}),
    # differences of value agree with slope, and autograd gives half of them
    "half detached": (
        lambda x: 0.5 * torch.atan(x - 1) + 0.5 * torch.atan(x - 1).detach(),
        lambda x: 1 / (1 + (x - 1) ** 2),
        {"(i)"},
    ),
    "detached": (lambda x: torch.atan(x - 1).detach(), lambda x: 1 / (1 + (x - 1) ** 2), {"(i)"}),
    # autograd gives slope, differences of value give twice that
    "half shown": (
        lambda x: torch.atan(x - 1) + torch.atan(x - 1).detach(),
        lambda x: 1 / (1 + (x - 1) ** 2),
        {"(i)"},
    ),
    "infinite at 0": (
        lambda x: torch.where(x > 0, torch.atan(x - 1), -torch.inf),
        lambda x: 1 / (1 + (x - 1) ** 2),
        {"(i)"},
    ),
    "overflowing": (
        lambda x: torch.tanh(x - 1),
        lambda x: 4 * torch.exp(2 * (x - 1)) / (1 + torch.exp(2 * (x - 1))) ** 2,
        {"(i)"},
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_is_named_and_nothing_else(name: str) -> None:
    f, f_slope, expected = BROKEN[name]
    assert conditions(WrittenGate(f=f, f_slope=f_slope)) == expected


def test_a_kink_of_the_slope_is_allowed() -> None:
    tau = 10.0  # slope exp(-tau |x - 1|)
    gate = WrittenGate(
        f=lambda x: torch.sign(x - 1) * -torch.expm1(-tau * (x - 1).abs()) / tau,
        f_slope=lambda x: torch.exp(-tau * (x - 1).abs()),
    )
    violations = check_admissible(gate).violations
    # torch.sign has gradient 0 at 1 itself, abs has subgradient 0 there: autograd gives 0 where the slope is 1
    assert [line.partition(":")[0] for line in violations] == ["(i) A > 0", "(i) A <= 0"]
    assert all("autograd differentiates value to 0" in line for line in violations)


def test_a_breach_for_one_sign_is_reported_for_that_sign() -> None:
    @dataclass(frozen=True)
    class OneSign:
        name: str = "one sign"

        def value(self, ratio: Tensor, positive: Tensor) -> Tensor:
            return torch.where(positive, 1.0, 0.5) * torch.atan(ratio - 1)

        def slope(self, ratio: Tensor, positive: Tensor) -> Tensor:
            return torch.where(positive, 1.0, 0.5) / (1 + (ratio - 1) ** 2)

    assert check_admissible(OneSign()).violations == ["(ii) A <= 0: slope is 0.5 at ratio 1, must be 1"]


def test_a_gate_is_checked_in_less_than_a_second() -> None:
    gate = get_gate("power", tau_pos=10.0, tau_neg=12.0, p=2.3)
    start = time.process_time()
    check_admissible(gate)
    assert time.process_time() - start < 1.0
