"""Gates against a scalar float64 reference written from the paper's table, and their properties."""

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gates import GATES, ClipGate, Gate, SoftGate, get_gate

SOFT = ("sigmoid", "erf", "arctan", "softsign", "power")
POWER_P = 2.0
TEMPERATURES = ((1.0, 1.05), (10.0, 12.0), (0.3, 40.0))
# both sides of 1, from 1e-4 to 1e4, with points next to 1 and beyond the clip bounds
RATIOS = (
    0.0,
    1e-4,
    0.003,
    0.1,
    0.5,
    0.79,
    0.8,
    0.81,
    0.95,
    0.999,
    1.0,
    1.001,
    1.05,
    1.19,
    1.2,
    1.21,
    2.0,
    7.5,
    300.0,
    1e4,
)
RTOL = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 2**-7}
TINY = {torch.float64: 1e-300, torch.float32: 1e-36, torch.bfloat16: 1e-36}  # below, a dtype has no full precision left


def paper_value(name: str, x: float, tau: float) -> float:
    if name == "sigmoid":
        exponent = -tau * (x - 1)
        return (4 / tau) / (1 + math.exp(exponent)) if exponent < 700 else 0.0
    if name == "erf":
        return 1 + math.sqrt(math.pi / (2 * tau**2)) * math.erf(tau * (x - 1) / math.sqrt(2))
    if name == "arctan":
        return 1 + math.atan(tau * (x - 1)) / tau
    if name == "power":  # the integral of (1 + s^2)^-2 is (s / (1 + s^2) + arctan s) / 2
        y = tau * (x - 1)
        return 1 + (y / (1 + y**2) + math.atan(y)) / (2 * tau)
    return 1 + (x - 1) / math.sqrt(1 + tau**2 * (x - 1) ** 2)


def paper_slope(name: str, x: float, tau: float) -> float:
    if name == "sigmoid":
        decay = math.exp(-abs(tau * (x - 1)))  # 4 s (1 - s) written in the exponential that is small
        return 4 * decay / (1 + decay) ** 2
    if name == "erf":
        return math.exp(-(tau**2) * (x - 1) ** 2 / 2)
    if name == "arctan":
        return 1 / (1 + tau**2 * (x - 1) ** 2)
    if name == "power":
        return (1 + tau**2 * (x - 1) ** 2) ** -POWER_P
    return (1 + tau**2 * (x - 1) ** 2) ** -1.5


def build(name: str, *, tau_pos: float = 10.0, tau_neg: float = 12.0) -> Gate:
    if name == "clip":
        return get_gate("clip", epsilon_low=0.2, epsilon_high=0.3)
    power = {"p": POWER_P} if name == "power" else {}
    return get_gate(name, tau_pos=tau_pos, tau_neg=tau_neg, **power)


def ratios_of_both_signs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    ratio = torch.tensor(RATIOS, dtype=torch.float64).to(dtype)
    return torch.cat([ratio, ratio]), torch.arange(2 * len(ratio)) < len(ratio)


@pytest.mark.parametrize("dtype", RTOL, ids=str)
@pytest.mark.parametrize("temperatures", TEMPERATURES, ids=str)
@pytest.mark.parametrize("name", SOFT)
def test_value_and_slope_equal_the_paper(name: str, temperatures: tuple[float, float], dtype: torch.dtype) -> None:
    gate = build(name, tau_pos=temperatures[0], tau_neg=temperatures[1])
    ratio, positive = ratios_of_both_signs(dtype)
    pairs = [
        (x, temperatures[0] if sign else temperatures[1]) for x, sign in zip(ratio.tolist(), positive, strict=True)
    ]
    for computed, reference in ((gate.value, paper_value), (gate.slope, paper_slope)):
        result = computed(ratio, positive)
        assert result.dtype == dtype
        assert result.shape == ratio.shape
        expected = [reference(name, x, tau) for x, tau in pairs]
        np.testing.assert_allclose(result.double().numpy(), expected, rtol=RTOL[dtype], atol=TINY[dtype])


@pytest.mark.parametrize("dtype", RTOL, ids=str)
@pytest.mark.parametrize("epsilons", [(0.2, 0.2), (0.2, 0.28), (0.1, 3.0)], ids=str)
def test_clip_equals_the_min_form_of_grpo(epsilons: tuple[float, float], dtype: torch.dtype) -> None:
    low, high = epsilons
    gate = get_gate("clip", epsilon_low=low, epsilon_high=high)
    ratio, positive = ratios_of_both_signs(dtype)
    value, slope = gate.value(ratio, positive), gate.slope(ratio, positive)
    assert value.dtype == slope.dtype == dtype
    for r, sign, v, s in zip(ratio.tolist(), positive.tolist(), value.tolist(), slope.tolist(), strict=True):
        advantage = 1.7 if sign else -0.6
        expected = min(r * advantage, min(max(r, 1 - low), 1 + high) * advantage) / advantage
        assert v == pytest.approx(expected, rel=RTOL[dtype])
        if min(abs(r - 1 - high), abs(r - 1 + low)) > 1e-6:
            assert s == float(r <= 1 + high if sign else r >= 1 - low)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_clip_has_slope_one_on_its_bound_and_so_has_autograd(dtype: torch.dtype) -> None:
    gate = get_gate("clip", epsilon_low=0.2, epsilon_high=0.2)
    ratio = torch.tensor([1.2, 0.8, 1.2, 0.8], dtype=dtype, requires_grad=True)
    positive = torch.tensor([True, False, False, True])
    gate.value(ratio, positive).sum().backward()
    assert ratio.grad is not None
    assert ratio.grad.tolist() == gate.slope(ratio, positive).tolist() == [1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("dtype", RTOL, ids=str)
@pytest.mark.parametrize("name", GATES)
def test_autograd_of_value_is_slope(name: str, dtype: torch.dtype) -> None:
    ratio, positive = ratios_of_both_signs(dtype)
    ratio.requires_grad_()
    gate = build(name)
    gate.value(ratio, positive).sum().backward()
    assert ratio.grad is not None
    assert torch.equal(ratio.grad, gate.slope(ratio, positive).detach())


@pytest.mark.parametrize("tau", [0.01, 10.0, 1000.0])
@pytest.mark.parametrize("dtype", RTOL, ids=str)
@pytest.mark.parametrize("name", GATES)
def test_finite_from_zero_to_a_billion(name: str, dtype: torch.dtype, tau: float) -> None:
    ratio = torch.tensor([0.0, 1e-9, 1.0, 1e2, 1e4, 1e9], dtype=dtype)
    gate = build(name, tau_pos=tau, tau_neg=tau)
    for positive in (torch.ones(6, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)):
        assert gate.value(ratio, positive).isfinite().all()
        slope = gate.slope(ratio, positive)
        assert ((slope >= 0) & (slope <= 1)).all()


def test_sigmoid_slope_keeps_its_digits_where_sigmoid_rounds_to_one() -> None:
    ratio = torch.tensor([4.0], requires_grad=True)
    get_gate("sigmoid", tau_pos=10.0, tau_neg=10.0).value(ratio, torch.tensor([True])).backward()
    assert ratio.grad is not None
    assert ratio.grad.item() == pytest.approx(4 * math.exp(-30), rel=1e-5)


def test_sigmoid_at_twice_tau_is_tanh_up_to_a_constant() -> None:
    ratio = torch.linspace(0.0, 3.0, 61, dtype=torch.float64)
    positive = torch.ones(61, dtype=torch.bool)
    difference = get_gate("sigmoid", tau_pos=6.0, tau_neg=1.0).value(ratio, positive) - torch.tanh(3 * (ratio - 1)) / 3
    assert torch.allclose(difference, torch.full_like(ratio, 1 / 3), atol=1e-14)


def test_zero_advantage_counts_as_not_positive() -> None:
    gate = get_gate("arctan", tau_pos=1.0, tau_neg=2.0)
    slope = gate.slope(torch.tensor([2.0, 2.0]), torch.tensor([0.0, 1.0]) > 0)
    assert slope.tolist() == pytest.approx([1 / 5, 1 / 2])


PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)
taus = st.floats(0.05, 50.0)


@PROPERTY
@given(name=st.sampled_from(GATES), tau_pos=taus, tau_neg=taus, positive=st.booleans())
def test_slope_is_one_at_ratio_one(name: str, tau_pos: float, tau_neg: float, positive: bool) -> None:
    gate = build(name, tau_pos=tau_pos, tau_neg=tau_neg)
    for dtype in RTOL:
        assert gate.slope(torch.ones(1, dtype=dtype), torch.tensor([positive])).item() == 1.0


@PROPERTY
@given(name=st.sampled_from(GATES), tau=taus, near=st.floats(0, 1), far=st.floats(0, 1), positive=st.booleans())
def test_slope_falls_away_from_one_and_stays_in_its_range(
    name: str, tau: float, near: float, far: float, positive: bool
) -> None:
    near, far = sorted((near, far))
    gate = build(name, tau_pos=tau, tau_neg=tau)
    reach = 20 / tau  # in ratio; erf's slope is e^-200 there
    below, above = min(reach, 1.0), reach
    ratio = torch.tensor(
        [[1 - below * near, 1 - below * far], [1 + above * near, 1 + above * far]], dtype=torch.float64
    )
    slope = gate.slope(ratio, torch.full((2, 2), positive))
    assert (slope <= 1).all()
    assert (slope[:, 1] <= slope[:, 0] * (1 + 1e-12)).all()
    if name != "clip":
        assert (slope > 0).all()


@PROPERTY
@given(name=st.sampled_from(SOFT), tau=taus, ratio=st.floats(0.0, 10.0), positive=st.booleans())
def test_slope_is_the_derivative_of_value(name: str, tau: float, ratio: float, positive: bool) -> None:
    gate = build(name, tau_pos=tau, tau_neg=tau)
    step = 1e-4 / tau
    around = torch.tensor([ratio - step, ratio + step], dtype=torch.float64)
    low, high = gate.value(around, torch.full((2,), positive)).tolist()
    slope = gate.slope(torch.tensor([ratio], dtype=torch.float64), torch.tensor([positive])).item()
    assert (high - low) / (2 * step) == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5), (2, 1, 4)], ids=str)
@pytest.mark.parametrize("name", GATES)
def test_any_shape_goes_through(name: str, shape: tuple[int, ...]) -> None:
    ratio = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2
    gate = build(name)
    assert gate.value(ratio, ratio > 1).shape == gate.slope(ratio, ratio > 1).shape == shape


@pytest.mark.parametrize("name", GATES)
def test_gates_compare_and_travel_by_pickle(name: str) -> None:
    gate = build(name)
    assert gate.name == name
    assert isinstance(gate, ClipGate if name == "clip" else SoftGate)
    assert pickle.loads(pickle.dumps(gate)) == gate  # noqa: S301  our own bytes


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("softsing", {}, r"gate='softsing': .*did you mean softsign\?"),
        ("relu", {}, r"gate='relu': unknown gate, allowed are sigmoid, erf, arctan, softsign, power, clip"),
        ("erf", {"tau_pos": 10.0, "tau_ngg": 12.0}, r"tau_ngg=12.0: .*did you mean tau_neg\?"),
        ("erf", {"tau_pos": 10.0}, "tau_neg: missing"),
        ("clip", {"epsilon_low": 0.2, "tau_pos": 1.0}, "tau_pos=1.0: gate clip takes epsilon_low and epsilon_high"),
        ("erf", {"tau_pos": 0.0, "tau_neg": 1.0}, r"tau_pos=0.0: must be a finite number > 0"),
        ("erf", {"tau_pos": 1.0, "tau_neg": math.inf}, r"tau_neg=inf: must be a finite number > 0"),
        ("arctan", {"tau_pos": math.nan, "tau_neg": 1.0}, "tau_pos=nan"),
        ("arctan", {"tau_pos": True, "tau_neg": 1.0}, "tau_pos=True"),
        ("arctan", {"tau_pos": "ten", "tau_neg": 1.0}, "tau_pos='ten'"),
        ("power", {"tau_pos": 1.0, "tau_neg": 1.0}, "p: missing, gate power needs tau_pos, tau_neg and p"),
        ("power", {"tau_pos": 1.0, "tau_neg": 1.0, "q": 2.0}, "q=2.0: gate power takes tau_pos, tau_neg and p"),
        ("arctan", {"tau_pos": 1.0, "tau_neg": 1.0, "p": 2.0}, "p=2.0: gate arctan takes tau_pos and tau_neg"),
        ("clip", {"epsilon_low": 1.0, "epsilon_high": 0.2}, r"epsilon_low=1.0: must be a number in \(0, 1\)"),
        ("clip", {"epsilon_low": 0.2, "epsilon_high": -0.1}, r"epsilon_high=-0.1: must be a finite number > 0"),
    ],
)
def test_mistakes_are_named_in_one_line(name: str, parameters: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        get_gate(name, **parameters)
    assert "\n" not in str(caught.value)
