"""The controller of tau on synthetic policies that drift from step to step: it holds the target, within its bounds."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice, pairwise
from statistics import mean

import pytest
import torch

from configs.gates import AdaptiveTauConfig
from gates.adaptive import EurTarget, TauController, TauState
from gates.power import power_shape
from gates.shapes import SHAPES

TARGET = EurTarget(**AdaptiveTauConfig(target_eur=0.9).model_dump())  # the shipped settings
NUM_STEPS = 8
GATES = ["sigmoid", "erf", "arctan", "softsign", "power"]


def controller_at(tau: float, *, num_steps: int = NUM_STEPS, target: EurTarget = TARGET) -> TauController:
    return TauController(target, tau=tau, num_steps=num_steps)


def deficits_at(name: str, taus: Sequence[float], log_ratio: torch.Tensor) -> list[float]:
    shape = power_shape(2.0) if name == "power" else SHAPES[name]
    column = torch.tensor(taus, dtype=torch.float64)[:, None]
    deficits: list[float] = (1.0 - shape.slope(torch.exp(log_ratio.double()), column)).mean(1).tolist()
    return deficits


def show(controller: TauController, name: str, log_ratio: torch.Tensor, *, target: EurTarget = TARGET) -> float:
    """Lets the controller observe one step on these tokens; returns its EUR."""
    own, *others = deficits_at(name, (controller.tau, *target.taus), log_ratio)
    controller.observe(1.0 - own, others)
    return 1.0 - own


def show_power_law(controller: TauController, curvature: float) -> None:
    """Lets the controller observe a step of deficit curvature * tau^2, at most 1."""
    controller.observe(
        1.0 - min(curvature * controller.tau**2, 1.0), [min(curvature * tau**2, 1.0) for tau in TARGET.taus]
    )


def iterations(
    name: str,
    controller: TauController,
    *,
    spread_of_batches: float = 0.0,
    least_share: float = 1.0,
    target: EurTarget = TARGET,
) -> Iterator[float]:
    """Yields the mean EUR of each iteration.

    Each batch moves the policy by an amount of its own, and a share of its tokens between least_share and 1; the others
    stay nearly where they were.
    """
    generator = torch.Generator().manual_seed(0)
    while True:
        scale = 0.06 * float(torch.exp(spread_of_batches * torch.randn(1, generator=generator)))
        share = least_share + (1.0 - least_share) * float(torch.rand(1, generator=generator))
        eurs = []
        for step in range(NUM_STEPS):
            log_ratio = scale * step**0.7 * torch.randn(400, generator=generator)
            log_ratio[round(share * 400) :] *= 0.01
            eurs.append(show(controller, name, log_ratio, target=target))
        yield mean(eurs)


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize("start", [3.0, 10.0, 30.0])
def test_reaches_the_target_within_ten_iterations_and_stays(name: str, start: float) -> None:
    path = list(islice(iterations(name, controller_at(start)), 20))
    assert path[10:] == pytest.approx([0.9] * 10, abs=0.01), path


@pytest.mark.parametrize("name", GATES)
def test_batches_that_differ_are_met_within_the_iteration(name: str) -> None:
    path = list(islice(iterations(name, controller_at(10.0), spread_of_batches=0.4), 40))[10:]
    assert max(abs(eur - 0.9) for eur in path) < 0.03, path


def test_calm_batches_in_which_few_tokens_move_are_met_too() -> None:
    path = list(islice(iterations("softsign", controller_at(10.0), spread_of_batches=0.2, least_share=0.25), 40))[10:]
    assert max(abs(eur - 0.9) for eur in path) < 0.03, path


def test_without_control_such_batches_leave_the_band() -> None:
    settled = controller_at(10.0)
    list(islice(iterations("softsign", settled, spread_of_batches=0.2), 20))
    fixed = replace(TARGET, tau_min=settled.tau, tau_max=settled.tau)
    controller = controller_at(settled.tau, target=fixed)
    path = list(islice(iterations("softsign", controller, spread_of_batches=0.2, target=fixed), 40))[10:]
    assert controller.tau == settled.tau
    assert max(abs(eur - 0.9) for eur in path) > 0.04, path


def test_moves_by_the_largest_factor_at_most_and_stays_within_bounds() -> None:
    for curvature, bound in ((1.0, TARGET.tau_min), (1e-9, TARGET.tau_max)):
        target = replace(TARGET, target_eur=0.999) if bound == TARGET.tau_min else TARGET
        controller, path = controller_at(10.0, target=target), [10.0]
        for _ in range(100):
            show_power_law(controller, curvature)
            path.append(controller.tau)
        assert path[-1] == pytest.approx(bound, rel=1e-12)
        assert TARGET.tau_min <= min(path)
        assert max(path) <= TARGET.tau_max
        for before, after in pairwise(path):
            assert before / TARGET.max_factor * (1 - 1e-12) <= after <= before * TARGET.max_factor * (1 + 1e-12)


@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_where_no_ratio_has_left_1_but_for_rounding_tau_stays(noise: float) -> None:
    controller = controller_at(10.0)
    for _ in range(3 * NUM_STEPS):
        show(controller, "softsign", noise * torch.ones(4))
    assert controller.tau == 10.0


def test_a_step_without_tokens_counts_as_on_target() -> None:
    controller = controller_at(10.0, num_steps=1)
    controller.observe(None, None)
    assert controller.tau == 10.0


def test_steps_without_tokens_do_not_tell_of_the_batch() -> None:
    full, gappy = controller_at(10.0), controller_at(10.0)
    for controller in (full, gappy):
        for step in range(NUM_STEPS):
            show_power_law(controller, 1e-4 * step**2)
    for _ in range(2 * NUM_STEPS):
        gappy.observe(None, None)
    assert gappy.state().curves == full.state().curves, "what is remembered outlives them"
    assert gappy.tau == pytest.approx((0.8 / 0.014) ** 0.5, rel=0.01), "0.014: sum of what is remembered, at tau 1"


def test_a_quadratic_deficit_is_met_at_once() -> None:
    controller = controller_at(10.0, num_steps=1)
    show_power_law(controller, 0.0012)  # the deficit is 0.1 at tau = sqrt(0.1 / 0.0012)
    assert controller.tau == pytest.approx((0.1 / 0.0012) ** 0.5, rel=0.01)


def test_later_steps_make_up_for_earlier_ones_within_limits() -> None:
    """After an iteration of equal steps, later steps compensate a deficit above budget without closing the gate."""
    controller = controller_at(10.0, num_steps=4)
    for _ in range(40):
        show_power_law(controller, 0.001)  # settles at tau 10, deficit 0.1 a step
    assert controller.tau == pytest.approx(10.0, rel=0.02)
    curve = [min(0.001 * tau**2, 1.0) for tau in TARGET.taus]
    controller.observe(0.84, curve)  # 0.06 too much: 0.24 left for three steps
    assert controller.tau == pytest.approx((0.08 / 0.001) ** 0.5, rel=0.02)
    controller.observe(0.3, curve)  # nothing is left; the two to come still aim at half of the target's deficit
    assert controller.tau == pytest.approx((0.05 / 0.001) ** 0.5, rel=0.02)


@pytest.mark.parametrize("bounds", [(0.1, 1000.0), (1.0, 100.0), (7.0, 7.0)])
def test_the_grid_spans_the_bounds(bounds: tuple[float, float]) -> None:
    taus = replace(TARGET, tau_min=bounds[0], tau_max=bounds[1]).taus
    assert (taus[0], taus[-1]) == pytest.approx(bounds, rel=1e-12)
    assert all(1.0 < high / low < 10 ** (1 / 7.9) for low, high in pairwise(taus))


def test_a_restored_controller_goes_on_as_the_other_does() -> None:
    first = controller_at(10.0)
    list(islice(iterations("erf", first, spread_of_batches=0.3), 3))
    saved = json.loads(json.dumps(asdict(first.state())))
    second = controller_at(5.0)
    second.restore(TauState(tau=saved["tau"], curves=tuple(tuple(curve) for curve in saved["curves"])))
    generator = torch.Generator().manual_seed(1)
    taus = set()
    for step in range(12):
        log_ratio = 0.1 * (step % NUM_STEPS) * torch.randn(50, generator=generator)
        show(first, "erf", log_ratio)
        show(second, "erf", log_ratio)
        assert first.tau == second.tau
        taus.add(first.tau)
    assert len(taus) > 6, "it moves"
