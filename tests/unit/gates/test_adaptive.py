"""The controller of tau on recorded ratios: it reaches the target for every slope, within its bounds."""

import math

import pytest
import torch

from gates import get_gate
from gates.adaptive import EurController

CONTROLLER = EurController(target_eur=0.9, max_factor=1.5, tau_min=0.1, tau_max=1000.0)
RATIOS = torch.exp(0.08 * torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def eur(name: str, tau: float) -> float:
    gate = get_gate(name, tau_pos=tau, tau_neg=tau)
    return float(gate.slope(RATIOS, torch.ones(len(RATIOS), dtype=torch.bool)).mean())


@pytest.mark.parametrize("name", ["sigmoid", "erf", "arctan", "softsign"])
@pytest.mark.parametrize("start", [1.0, 10.0, 100.0])
def test_reaches_the_target_within_ten_steps_and_stays(name: str, start: float) -> None:
    tau, path = start, []
    for _ in range(15):
        tau = CONTROLLER.next_tau(tau, eur=eur(name, tau))
        path.append(eur(name, tau))
    assert path[9:] == pytest.approx([0.9] * 6, abs=0.01), path


def test_moves_against_the_error_and_by_the_largest_factor_at_most() -> None:
    assert CONTROLLER.next_tau(10.0, eur=0.5) == pytest.approx(10.0 / 1.5)
    assert CONTROLLER.next_tau(10.0, eur=1.0) == pytest.approx(15.0)
    assert CONTROLLER.next_tau(10.0, eur=0.9) == pytest.approx(10.0)
    assert 10.0 / 1.5 < CONTROLLER.next_tau(10.0, eur=0.88) < 10.0
    assert 10.0 < CONTROLLER.next_tau(10.0, eur=0.92) < 15.0


def test_a_small_deficit_is_corrected_in_one_go() -> None:
    deficit_at = {tau: 1.0 - 1e-4 * tau**2 for tau in (10.0, 12.0)}  # what every smooth slope does near ratio 1
    controller = EurController(target_eur=deficit_at[12.0], max_factor=1.5, tau_min=0.1, tau_max=1000.0)
    assert controller.next_tau(10.0, eur=deficit_at[10.0]) == pytest.approx(12.0)


def test_stays_within_its_bounds() -> None:
    up = down = 10.0
    for _ in range(50):
        up, down = CONTROLLER.next_tau(up, eur=1.0), CONTROLLER.next_tau(down, eur=0.0)
    assert (up, down) == (1000.0, 0.1)
    assert math.isfinite(CONTROLLER.next_tau(10.0, eur=1.0 + 1e-12))
