"""The controller of tau on synthetic policies that drift from step to step: it holds the target, within its bounds."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import islice
from statistics import mean

import pytest
import torch

from configs.gates import AdaptiveTauConfig
from gates import Gate, get_gate
from gates.adaptive import EurTarget, TauController, TauState

TARGET = EurTarget(**AdaptiveTauConfig(target_eur=0.9).model_dump())  # the shipped settings
NUM_STEPS = 8


def controller_at(tau: float, *, num_steps: int = NUM_STEPS, target: EurTarget = TARGET) -> TauController:
    return TauController(target, tau=tau, num_steps=num_steps)


def eur_of(gate: Gate, log_ratio: torch.Tensor) -> float:
    ratio = torch.exp(log_ratio)
    return float(gate.slope(ratio, torch.ones(len(ratio), dtype=torch.bool)).mean())


def iterations(name: str, controller: TauController, *, spread_of_batches: float) -> Iterator[float]:
    """Mean EUR of one iteration after the other; each batch moves the policy by an amount of its own."""
    generator = torch.Generator().manual_seed(0)
    while True:
        scale = 0.06 * float(torch.exp(spread_of_batches * torch.randn(1, generator=generator)))
        eurs = []
        for step in range(NUM_STEPS):
            log_ratio = scale * step**0.7 * torch.randn(800, generator=generator)
            eurs.append(eur_of(get_gate(name, tau_pos=controller.tau, tau_neg=controller.tau), log_ratio))
            controller.observe(eurs[-1])
        yield mean(eurs)


@pytest.mark.parametrize("name", ["sigmoid", "erf", "arctan", "softsign"])
@pytest.mark.parametrize("start", [3.0, 10.0, 30.0])
def test_reaches_the_target_within_ten_iterations_and_stays(name: str, start: float) -> None:
    path = list(islice(iterations(name, controller_at(start), spread_of_batches=0.0), 40))
    assert path[10:] == pytest.approx([0.9] * 30, abs=0.01), path


def test_batches_that_differ_are_met_within_the_iteration() -> None:
    path = list(islice(iterations("softsign", controller_at(10.0), spread_of_batches=0.2), 60))[10:]
    assert max(abs(eur - 0.9) for eur in path) < 0.03, path
    tau = 1.9  # about where the controller has settled
    fixed = controller_at(tau, target=replace(TARGET, tau_min=tau, tau_max=tau))
    path = list(islice(iterations("softsign", fixed, spread_of_batches=0.2), 60))[10:]
    assert max(abs(eur - 0.9) for eur in path) > 0.05, "without control these batches leave the band"


def test_moves_by_the_largest_factor_at_most_and_stays_within_bounds() -> None:
    controller, path = controller_at(10.0), []
    for _ in range(200):
        controller.observe(0.2)
        path.append(controller.tau)
    assert path[0] == pytest.approx(10.0 / TARGET.max_factor)
    assert path[-1] == 0.1
    controller = controller_at(10.0)
    for _ in range(200):
        controller.observe(1.0 - 1e-9)
    assert controller.tau == 1000.0


def test_where_no_ratio_has_left_1_tau_stays() -> None:
    controller = controller_at(10.0)
    for _ in range(3 * NUM_STEPS):
        controller.observe(1.0)
    assert controller.tau == 10.0


def test_a_step_without_tokens_counts_as_on_target() -> None:
    controller = controller_at(10.0, num_steps=1)
    controller.observe(None)
    assert controller.tau == pytest.approx(10.0)


def test_a_quadratic_deficit_is_met_at_once() -> None:
    controller = controller_at(10.0, num_steps=1)
    controller.observe(1.0 - 0.12)  # curvature 0.0012: the deficit is 0.1 at tau = sqrt(0.1 / 0.0012)
    assert controller.tau == pytest.approx((0.1 / 0.0012) ** 0.5)


def test_a_restored_controller_goes_on_as_the_other_does() -> None:
    first = controller_at(10.0)
    list(islice(iterations("erf", first, spread_of_batches=0.3), 3))
    saved = json.loads(json.dumps(asdict(first.state())))
    second = controller_at(5.0)
    second.restore(TauState(tau=saved["tau"], curvatures=tuple(saved["curvatures"])))
    for eur in (1.0, 0.95, 0.9, 0.85, 0.9, 0.8, 0.7, 0.9, 1.0, 0.9):
        first.observe(eur)
        second.observe(eur)
        assert first.tau == second.tau
