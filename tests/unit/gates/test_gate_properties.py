"""Properties of every soft gate at every tau in [0.1, 100]: range of the slope, derivative of value, tail."""

import math
from operator import attrgetter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gates import SoftGate
from gates.power import power_shape
from gates.shapes import SHAPES, GateShape

ALL_SHAPES = (*SHAPES.values(), *(power_shape(p) for p in (0.6, 1.0, 1.5, 2.0, 5.0, 50.0)))
FARTHEST = math.exp(20.0)
UNDERFLOW = 1e-300
PROPERTY = settings(derandomize=True, deadline=None, max_examples=150)
shapes = st.sampled_from(ALL_SHAPES)
taus = st.floats(0.1, 100.0)
signs = st.booleans()
log_ratios = st.floats(-20.0, 20.0)


def gate_of(shape: GateShape, tau: float, positive: bool) -> SoftGate:
    """The gate with tau on the side under test and another tau on the other side, so that a wrong choice shows."""
    return SoftGate(shape=shape, tau_pos=tau if positive else 3.0 * tau, tau_neg=3.0 * tau if positive else tau)


def slopes(shape: GateShape, tau: float, positive: bool, ratio: list[float]) -> Tensor:
    at = torch.tensor(ratio, dtype=torch.float64)
    return gate_of(shape, tau, positive).slope(at, torch.full_like(at, positive, dtype=torch.bool))


def values(shape: GateShape, tau: float, positive: bool, ratio: list[float]) -> Tensor:
    at = torch.tensor(ratio, dtype=torch.float64)
    return gate_of(shape, tau, positive).value(at, torch.full_like(at, positive, dtype=torch.bool))


@PROPERTY
@given(shape=shapes, tau=taus, positive=signs, log_ratio=log_ratios)
def test_slope_lies_in_0_1_and_is_1_at_ratio_1(shape: GateShape, tau: float, positive: bool, log_ratio: float) -> None:
    at_one, elsewhere = slopes(shape, tau, positive, [1.0, math.exp(log_ratio)]).tolist()
    assert at_one == 1.0
    assert 0.0 <= elsewhere <= 1.0
    reach = tau * abs(math.exp(log_ratio) - 1.0)
    if reach < 30.0:  # erf: exp(-450); power p=50: 901^-50 = 1e-148
        assert elsewhere > 0.0


@PROPERTY
@given(shape=shapes, tau=taus, positive=signs, far=st.floats(0.0, 25.0), share=st.floats(0.0, 0.98))
def test_slope_falls_away_from_ratio_1(shape: GateShape, tau: float, positive: bool, far: float, share: float) -> None:
    """The slope falls up to tau |ratio - 1| = far; below 1 the range ends at ratio 0."""
    for direction, reach in ((1.0, far), (-1.0, min(far, tau))):
        near, away = slopes(
            shape, tau, positive, [1.0 + direction * share * reach / tau, 1.0 + direction * reach / tau]
        ).tolist()
        assert away <= near
        if reach > 1e-3:
            assert away < near


@PROPERTY
@given(shape=shapes, tau=taus, positive=signs, y=st.floats(-30.0, 30.0))
def test_slope_is_the_difference_quotient_of_value(shape: GateShape, tau: float, positive: bool, y: float) -> None:
    ratio, step = max(1.0 + y / tau, 0.0), 1e-4 / tau
    low, high = values(shape, tau, positive, [ratio - step, ratio + step]).tolist()
    (slope,) = slopes(shape, tau, positive, [ratio]).tolist()
    # the quotient is off by slope'' step^2 / 6, below 100 tau^2 step^2 / 6 = 2e-7 for p = 50, and by rounding
    assert (high - low) / (2 * step) == pytest.approx(slope, abs=3e-7)


@PROPERTY
@given(shape=shapes, tau=taus, positive=signs, pair=st.tuples(log_ratios, log_ratios))
def test_value_is_finite_and_does_not_fall(
    shape: GateShape, tau: float, positive: bool, pair: tuple[float, float]
) -> None:
    near, far = sorted(math.exp(log_ratio) for log_ratio in pair)
    at_zero, low, high, highest = values(shape, tau, positive, [0.0, near, far, FARTHEST]).tolist()
    assert all(map(math.isfinite, (at_zero, low, high, highest)))
    rounding = 1e-14 * max(1.0, abs(highest))
    assert at_zero <= low + rounding
    assert low <= high + rounding
    assert high <= highest + rounding


@PROPERTY
@given(tau=taus, positive=signs, log_ratio=log_ratios)
def test_sigmoid_at_twice_tau_is_tanh_up_to_a_constant(tau: float, positive: bool, log_ratio: float) -> None:
    ratio = math.exp(log_ratio)
    sigmoid = values(SHAPES["sigmoid"], 2.0 * tau, positive, [ratio, 1.0])
    assert (sigmoid[0] - sigmoid[1]).item() == pytest.approx(math.tanh(tau * (ratio - 1.0)) / tau, abs=1e-13 / tau)


@pytest.mark.parametrize("shape", ALL_SHAPES, ids=attrgetter("name"))
def test_half_width_is_where_the_slope_is_one_half(shape: GateShape) -> None:
    low, high = 0.0, 100.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        at = torch.tensor([1.0 + middle, 1.0], dtype=torch.float64)
        half = shape.slope(at, torch.ones_like(at))[0].item() > 0.5
        low, high = (middle, high) if half else (low, middle)
    assert shape.half_width == pytest.approx(low, rel=1e-13)


def log_slopes(shape: GateShape, tau: float, reach: list[float]) -> Tensor:
    """Values of log f' at tau (ratio - 1) = reach."""
    slope = slopes(shape, tau, True, [1.0 + y / tau for y in reach])
    assert (slope > UNDERFLOW).all()
    return slope.log()


@pytest.mark.parametrize("tau", [0.1, 10.0, 100.0])
@pytest.mark.parametrize(
    ("shape", "order"),
    [(SHAPES["arctan"], 2.0), (SHAPES["softsign"], 3.0), *((power_shape(p), 2 * p) for p in (0.6, 2.0, 5.0, 20.0))],
    ids=lambda value: value.name if isinstance(value, GateShape) else f"order {value:g}",
)
def test_polynomial_tails_have_the_order_of_the_paper(shape: GateShape, order: float, tau: float) -> None:
    near, far = log_slopes(shape, tau, [1e4, 1e7])
    assert (near - far).item() / math.log(1e3) == pytest.approx(order, rel=1e-7)


@pytest.mark.parametrize("tau", [0.1, 10.0, 100.0])
def test_sigmoid_has_an_exponential_tail(tau: float) -> None:
    falls = -log_slopes(SHAPES["sigmoid"], tau, [50.0, 100.0, 200.0, 400.0]).diff()
    assert falls.tolist() == pytest.approx([50.0, 100.0, 200.0], rel=1e-12)


@pytest.mark.parametrize("tau", [0.1, 10.0, 100.0])
def test_erf_has_a_gaussian_tail(tau: float) -> None:
    logs = log_slopes(SHAPES["erf"], tau, [5.0, 10.0, 20.0, 30.0])
    assert logs.tolist() == pytest.approx([-12.5, -50.0, -200.0, -450.0], rel=1e-12)
