"""The fused pass equals the reference token by token and in every sum; where there is no such pass, that is said."""

import math
from dataclasses import dataclass, fields, replace

import pytest
import torch
from torch import Tensor

from gates import GATES, Gate, SoftGate, chunks, get_gate
from gates.kernels import fused_loss, has_kernel, loss_function_for
from gates.loss import TOTALS, GateLoss, LossFunction, reference_loss
from gates.shapes import GateShape, softsign_slope, softsign_value

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
# To the rounding of each dtype: in the tails a slope multiplies the rounding of its argument, which is up to 90
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-5}
SMALLEST = {torch.float64: 1e-290, torch.float32: 1e-36, torch.bfloat16: 1e-36}  # below it digits get lost


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Of a loss function, [T] each."""

    logprobs: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    loss_weights: Tensor

    def run(self, loss_function: LossFunction, gate: Gate, upstream: float = 1.0) -> tuple[GateLoss, Tensor]:
        """The result and the gradient of logprobs."""
        columns = {field.name: getattr(self, field.name).clone().requires_grad_() for field in fields(self)}
        out = loss_function(**columns, gate=gate)
        (out.loss * upstream).backward()
        assert all(columns[name].grad is None for name in columns if name != "logprobs")
        gradient = columns["logprobs"].grad
        assert gradient is not None
        return out, gradient


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 64)


def build(name: str, *, swapped: bool = False) -> Gate:
    if name == "clip":
        return get_gate("clip", epsilon_low=0.2, epsilon_high=0.28)
    taus = {"tau_pos": 12.0, "tau_neg": 10.0} if swapped else {"tau_pos": 10.0, "tau_neg": 12.0}
    return get_gate(name, **taus, **({"p": 2.2} if name == "power" else {}))


def draw(num_tokens: int, dtype: torch.dtype, *, spread: float = 0.3) -> Inputs:
    """Both signs, zero advantages, uneven weights, tokens of weight 0."""
    generator = torch.Generator().manual_seed(num_tokens)
    old, drift, advantages, weights = torch.randn(4, num_tokens, generator=generator, dtype=torch.float64)
    advantages[::5] = 0.0
    weights = weights.abs() + 0.01
    weights[3::7] = 0.0
    columns = (old - 3.0 + spread * drift, old - 3.0, advantages, weights)
    logprobs, old_logprobs, advantages, weights = (column.to(dtype) for column in columns)
    return Inputs(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages, loss_weights=weights)


def extremes(dtype: torch.dtype) -> Inputs:
    """Ratios of 1e-4 to 1e4, the limits of the log-ratio and both sides of them, far beyond."""
    edges = [20.0, math.nextafter(20.0, 21.0), 19.99, 20.01, 100.0, 1e4, math.log(1e4), 5.0, 1e-3, 0.0]
    log_ratios = torch.tensor([sign * edge for edge in edges for sign in (1.0, -1.0)], dtype=torch.float64)
    advantages = torch.tensor([1.3, -0.7, 0.0], dtype=torch.float64).repeat_interleave(len(log_ratios))
    log_ratios = log_ratios.repeat(3)
    weights = torch.full_like(log_ratios, 0.125)
    columns = (log_ratios, torch.zeros_like(log_ratios), advantages, weights)
    logprobs, old_logprobs, advantages, weights = (column.to(dtype) for column in columns)
    return Inputs(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages, loss_weights=weights)


def assert_equal(inputs: Inputs, gate: Gate) -> None:
    dtype = inputs.logprobs.dtype
    close = {"rtol": TOLERANCE[dtype], "atol": SMALLEST[dtype]}
    (ours, our_gradient), (wanted, wanted_gradient) = (inputs.run(f, gate) for f in (fused_loss, reference_loss))
    assert torch.equal(ours.metrics.trained, wanted.metrics.trained)
    wide = inputs.logprobs.to(ours.loss.dtype) - inputs.old_logprobs.to(ours.loss.dtype)
    assert not our_gradient[(wide.abs() > 20.0) | (inputs.loss_weights == 0) | (inputs.advantages == 0)].any()
    for name in ("log_ratio", "slope", "largest_log_ratio", "totals"):
        torch.testing.assert_close(getattr(ours.metrics, name), getattr(wanted.metrics, name), **close)
    # Half precisions round the gradient after the same computation in float32
    last_bit = torch.finfo(dtype).eps if dtype == torch.bfloat16 else 0.0
    torch.testing.assert_close(our_gradient, wanted_gradient, rtol=close["rtol"] + last_bit, atol=close["atol"])
    # The terms of the loss cancel, and the reference adds them in float32
    size = (inputs.loss_weights * inputs.advantages).double().nan_to_num().abs().sum().item()
    largest = max(wanted.metrics.ratio[wanted.metrics.trained].tolist(), default=0.0) if gate.name == "clip" else 2.0
    torch.testing.assert_close(
        ours.loss, wanted.loss, rtol=close["rtol"], atol=close["rtol"] * size * max(largest, 2.0)
    )
    assert not any(getattr(ours.metrics, field.name).requires_grad for field in fields(ours.metrics))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("num_tokens", [0, 1, 7, 64, 1000])
@pytest.mark.parametrize("name", GATES)
def test_equals_the_reference(name: str, num_tokens: int, dtype: torch.dtype) -> None:
    assert_equal(draw(num_tokens, dtype), build(name))
    assert_equal(replace(draw(num_tokens, dtype), loss_weights=torch.ones(num_tokens, dtype=dtype)), build(name))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", GATES)
def test_equals_the_reference_at_extremes(name: str, dtype: torch.dtype) -> None:
    assert_equal(extremes(dtype), build(name))
    assert_equal(draw(300, dtype, spread=9.0), build(name))


@pytest.mark.parametrize("name", [name for name in GATES if name != "clip"])
def test_either_temperature_may_be_the_larger(name: str) -> None:
    assert_equal(draw(200, torch.float64), build(name, swapped=True))


def test_a_million_tokens_in_chunks_of_the_real_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert chunks.CHUNK > 1000
    inputs = draw(1_000_003, torch.float32)
    assert_equal(inputs, build("softsign"))
    exact = Inputs(**{field.name: getattr(inputs, field.name).double() for field in fields(inputs)})
    ours, wanted = inputs.run(fused_loss, build("softsign"))[0], exact.run(reference_loss, build("softsign"))[0]
    assert ours.metrics.totals[0] == wanted.metrics.totals[0]
    torch.testing.assert_close(ours.metrics.totals, wanted.metrics.totals, rtol=1e-6, atol=0.0)


def test_equals_the_paper_computed_token_by_token() -> None:
    inputs = draw(50, torch.float64)
    for name in ("sigmoid", "softsign", "clip"):
        out, gradient = inputs.run(fused_loss, build(name))
        loss, expected = 0.0, []
        columns = (inputs.logprobs, inputs.old_logprobs, inputs.advantages, inputs.loss_weights)
        for logprob, old, advantage, weight in zip(*(column.tolist() for column in columns), strict=True):
            ratio = math.exp(logprob - old)
            tau = 10.0 if advantage > 0 else 12.0
            x = tau * (ratio - 1.0)
            if name == "sigmoid":
                s = 1.0 / (1.0 + math.exp(-x))
                value, slope = 4.0 / tau * s, 4.0 * s * (1.0 - s)
            elif name == "softsign":
                value, slope = 1.0 + (ratio - 1.0) / math.sqrt(1.0 + x * x), (1.0 + x * x) ** -1.5
            else:
                value = min(ratio, 1.28) if advantage > 0 else max(ratio, 0.8)
                slope = float(value == ratio)
            loss -= weight * value * advantage
            expected.append(-weight * slope * ratio * advantage)
        assert out.loss.item() == pytest.approx(loss, rel=1e-12)
        torch.testing.assert_close(gradient, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=0.0)


@pytest.mark.parametrize("masked", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("name", GATES)
def test_masked_tokens_contribute_exactly_zero(name: str, masked: float) -> None:
    kept = draw(40, torch.float32)
    kept = Inputs(**{field.name: getattr(kept, field.name)[kept.loss_weights != 0] for field in fields(kept)})
    expected, expected_gradient = kept.run(fused_loss, build(name))
    places = torch.arange(len(kept.logprobs)) + torch.arange(len(kept.logprobs)) // 3  # every fourth is padding
    length = int(places[-1]) + 1

    def pad(column: Tensor, value: float) -> Tensor:
        return torch.full((length,), value).index_copy(0, places, column)

    padded = Inputs(
        logprobs=pad(kept.logprobs, masked),
        old_logprobs=pad(kept.old_logprobs, masked),
        advantages=pad(kept.advantages, masked),
        loss_weights=pad(kept.loss_weights, 0.0),
    )
    out, gradient = padded.run(fused_loss, build(name))
    assert not gradient[padded.loss_weights == 0].any()
    # torch rounds an entry differently at different places of its vectors
    torch.testing.assert_close(gradient[places], expected_gradient, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(out.metrics.totals, expected.metrics.totals, rtol=1e-6, atol=0.0)
    assert out.metrics.totals[0] == expected.metrics.totals[0]
    torch.testing.assert_close(out.loss, expected.loss, rtol=1e-6, atol=0.0)
    assert out.metrics.largest_log_ratio == expected.metrics.largest_log_ratio
    assert not out.metrics.log_ratio[out.metrics.trained.logical_not()].any()


@pytest.mark.parametrize("name", GATES)
def test_tokens_all_masked_give_zero(name: str) -> None:
    nothing = replace(draw(100, torch.float32), loss_weights=torch.zeros(100))
    out, gradient = nothing.run(fused_loss, build(name))
    assert out.loss == 0.0
    assert not gradient.any()
    assert not out.metrics.totals.any()
    assert out.metrics.largest_log_ratio == -math.inf


def test_largest_log_ratio_is_of_trained_tokens_even_if_negative() -> None:
    inputs = replace(draw(3, torch.float64), loss_weights=torch.tensor([1.0, 0.0, 1.0]))
    inputs = replace(inputs, logprobs=inputs.old_logprobs - torch.tensor([0.5, 0.1, 0.25], dtype=torch.float64))
    assert inputs.run(fused_loss, build("erf"))[0].metrics.largest_log_ratio.item() == pytest.approx(-0.25)


@pytest.mark.parametrize("name", GATES)
def test_nan_in_a_trained_token_reaches_the_loss(name: str) -> None:
    inputs = draw(100, torch.float32)
    inputs.logprobs[70] = math.nan
    for loss_function in (fused_loss, reference_loss):
        out, gradient = inputs.run(loss_function, build(name))
        assert out.loss.isnan()
        assert out.metrics.largest_log_ratio.isnan()
        assert gradient[70] == 0.0  # as torch's clamp has it


def test_backward_scales_by_what_comes_from_above_and_may_run_twice() -> None:
    inputs = draw(100, torch.float32)
    once, four_times = (inputs.run(fused_loss, build("erf"), upstream)[1] for upstream in (1.0, 4.0))
    assert torch.equal(four_times, 4.0 * once)
    logprobs = inputs.logprobs.clone().requires_grad_()
    out = fused_loss(
        **{f.name: getattr(inputs, f.name) for f in fields(inputs)} | {"logprobs": logprobs}, gate=build("erf")
    )
    out.loss.backward(retain_graph=True)
    out.loss.backward()
    torch.testing.assert_close(logprobs.grad, 2.0 * once)


def test_gradient_reaches_what_logprobs_came_from_and_inputs_stay() -> None:
    inputs = draw(100, torch.float64)
    before = [getattr(inputs, field.name).clone() for field in fields(inputs)]
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    columns = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    fused_loss(**columns | {"logprobs": inputs.logprobs + shift}, gate=build("sigmoid")).loss.backward()
    assert shift.grad is not None
    torch.testing.assert_close(shift.grad, inputs.run(reference_loss, build("sigmoid"))[1].sum())
    after = [getattr(inputs, field.name) for field in fields(inputs)]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_without_a_gradient_wanted_the_loss_has_none() -> None:
    inputs = draw(10, torch.float32)
    out = fused_loss(**{field.name: getattr(inputs, field.name) for field in fields(inputs)}, gate=build("clip"))
    assert not out.loss.requires_grad


def test_inputs_of_several_dtypes_and_strides_compute_in_that_of_logprobs() -> None:
    inputs = draw(400, torch.float64)
    mixed = Inputs(
        logprobs=inputs.logprobs.float()[::2],
        old_logprobs=inputs.old_logprobs[::2],
        advantages=inputs.advantages.bfloat16()[::2],
        loss_weights=inputs.loss_weights[1::2],
    )
    (ours, our_gradient), (wanted, wanted_gradient) = (
        mixed.run(f, build("arctan")) for f in (fused_loss, reference_loss)
    )
    assert ours.loss.dtype == torch.float32
    torch.testing.assert_close(our_gradient, wanted_gradient, rtol=2e-5, atol=0.0)
    torch.testing.assert_close(ours.metrics.totals, wanted.metrics.totals, rtol=2e-5, atol=0.0)


def test_a_soft_gate_of_any_shape_has_a_kernel_and_names_decide_nothing() -> None:
    shape = GateShape(name="sigmoid", value=softsign_value, slope=softsign_slope, half_width=1.0)
    gate = SoftGate(shape=shape, tau_pos=3.0, tau_neg=4.0)
    assert_equal(draw(300, torch.float64), gate)
    assert has_kernel(gate, CPU)
    assert not has_kernel(gate, CUDA)


class DoubledSlope:
    name = "doubled"

    def value(self, ratio: Tensor, positive: Tensor) -> Tensor:
        return 2.0 * ratio

    def slope(self, ratio: Tensor, positive: Tensor) -> Tensor:
        return torch.full_like(ratio, 2.0)


def test_which_loss_function_a_gate_gets() -> None:
    assert loss_function_for(build("erf"), kernel="auto", device=CPU) is fused_loss
    assert loss_function_for(build("erf"), kernel="fused", device=CPU) is fused_loss
    assert loss_function_for(build("erf"), kernel="reference", device=CPU) is reference_loss
    assert loss_function_for(DoubledSlope(), kernel="auto", device=CPU) is reference_loss
    assert loss_function_for(build("erf"), kernel="auto", device=torch.device("meta")) is reference_loss


def test_fused_where_there_is_none_is_refused() -> None:
    message = "gate.kernel=fused: gate doubled has no kernel on cpu; set gate.kernel=reference or auto"
    with pytest.raises(ValueError, match=message):
        loss_function_for(DoubledSlope(), kernel="fused", device=CPU)
    inputs = draw(3, torch.float32)
    with pytest.raises(ValueError, match=message):
        inputs.run(fused_loss, DoubledSlope())


def test_totals_are_named_in_the_order_of_the_reference() -> None:
    metrics = draw(100, torch.float64).run(fused_loss, build("softsign"))[0].metrics
    excess = metrics.ratio[metrics.trained] - 1.0
    gate_weight = metrics.ratio[metrics.trained] * metrics.slope[metrics.trained]
    wanted = (len(excess), excess.sum(), excess.square().sum(), gate_weight.sum(), gate_weight.square().sum())
    assert dict(zip(TOTALS, metrics.totals.tolist(), strict=True)) == pytest.approx(
        dict(zip(TOTALS, map(float, wanted), strict=True)), rel=1e-12
    )
