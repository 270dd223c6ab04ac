"""The fused loss equals the reference path and, token by token, a scalar float64 reference of the paper's equations."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from gates import GATES, Gate, SoftGate, get_gate
from gates import cpu_kernels as gates_cpu_kernels
from gates.custom import ValueGate
from gates.kernels import fused_loss, has_kernel, loss_function_for
from gates.loss import GateLoss, LossFunction, reference_loss
from gates.shapes import GateShape, arctan_slope, arctan_value

CPU = torch.device("cpu")
TAU_POS, TAU_NEG, EPSILON_LOW, EPSILON_HIGH = 10.0, 12.0, 0.2, 0.28
POWERS = (0.75, 1.0, 1.5, 2.0, 3.5)  # a series, arctan, softsign, and the two recursions
KINDS = (*(name for name in GATES if name != "power"), *(f"power {p:g}" for p in POWERS))


def build(kind: str) -> Gate:
    name, _, p = kind.partition(" ")
    if name == "clip":
        return get_gate("clip", epsilon_low=EPSILON_LOW, epsilon_high=EPSILON_HIGH)
    return get_gate(name, tau_pos=TAU_POS, tau_neg=TAU_NEG, **({"p": float(p)} if p else {}))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates_cpu_kernels, "CHUNK_TOKENS", 512)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """Inputs of a loss function, each [T]."""

    logprobs: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    loss_weights: Tensor

    def run(self, function: LossFunction, gate: Gate, *, upstream: float = 1.0) -> tuple[GateLoss, Tensor]:
        """The result of the loss function, and the gradient of upstream * loss by logprobs."""
        columns = {name: getattr(self, name).detach() for name in self.__slots__}
        columns["logprobs"] = columns["logprobs"].clone().requires_grad_()
        out = function(**columns, gate=gate)
        (upstream * out.loss).backward()
        assert columns["logprobs"].grad is not None
        return out, columns["logprobs"].grad


def random_tokens(num_tokens: int, *, dtype: torch.dtype, largest_log_ratio: float, masked: float = 0.2) -> Tokens:
    """Random tokens with advantages of both signs and zero, uneven weights, and a share masked."""
    generator = torch.Generator().manual_seed(num_tokens)
    old_logprobs = -5 * torch.rand(num_tokens, generator=generator, dtype=torch.float64)
    log_ratio = largest_log_ratio * (2 * torch.rand(num_tokens, generator=generator, dtype=torch.float64) - 1)
    advantages = torch.randn(num_tokens, generator=generator, dtype=torch.float64)
    advantages[::7] = 0.0
    weights = (torch.rand(num_tokens, generator=generator, dtype=torch.float64) + 0.5) / max(num_tokens, 1)
    weights[torch.rand(num_tokens, generator=generator) < masked] = 0.0
    columns = (old_logprobs + log_ratio, old_logprobs, advantages, weights)
    return Tokens(**{name: column.to(dtype) for name, column in zip(Tokens.__slots__, columns, strict=True)})


def assert_equal(tokens: Tokens, gate: Gate, *, upstream: float = 1.0) -> None:
    """Asserts that fused_loss equals reference_loss, to 1e-12 in float64 and up to rounding in float32."""
    expected, expected_gradient = tokens.run(reference_loss, gate, upstream=upstream)
    found, gradient = tokens.run(fused_loss, gate, upstream=upstream)
    is_double = expected.loss.dtype == torch.float64
    rtol, smallest = (1e-12, 1e-300) if is_double else (2e-5, 1e-30)
    weighted = tokens.loss_weights.double() * tokens.advantages.double()
    values = gate.value(expected.metrics.ratio.double(), tokens.advantages > 0)
    scale = float((weighted * values)[expected.metrics.trained].nan_to_num().abs().sum())  # of the terms of the loss
    torch.testing.assert_close(
        found.loss, expected.loss, rtol=0.0, atol=scale * (1e-12 if is_double else 1e-6), equal_nan=True
    )
    coarse = {torch.bfloat16: 8e-3, torch.float16: 1e-3}.get(gradient.dtype, 0.0)  # their last digit
    smallest_gradient = 6e-8 if gradient.dtype == torch.float16 else smallest
    torch.testing.assert_close(gradient, expected_gradient, rtol=rtol + coarse, atol=smallest_gradient, equal_nan=True)
    ours, theirs = found.metrics, expected.metrics
    assert torch.equal(ours.trained, theirs.trained)
    for exact in ("log_ratio", "largest_log_ratio"):
        torch.testing.assert_close(getattr(ours, exact), getattr(theirs, exact), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(ours.slope, theirs.slope, rtol=rtol, atol=smallest, equal_nan=True)
    size = float(theirs.totals.nan_to_num().abs().max())
    torch.testing.assert_close(
        ours.totals, theirs.totals, rtol=rtol, atol=size * (1e-13 if is_double else 1e-7), equal_nan=True
    )
    assert not any(getattr(ours, field).requires_grad for field in ours.__slots__)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("largest_log_ratio", [0.05, 1.0, math.log(1e4), 30.0])
@pytest.mark.parametrize("num_tokens", [0, 1, 7, 1029])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("small_chunks")
def test_fused_equals_the_reference(kind: str, num_tokens: int, largest_log_ratio: float, dtype: torch.dtype) -> None:
    for masked in (0.0, 0.3):
        tokens = random_tokens(num_tokens, dtype=dtype, largest_log_ratio=largest_log_ratio, masked=masked)
        assert_equal(tokens, build(kind))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ["erf", "clip"])
def test_a_million_and_three_tokens(kind: str, dtype: torch.dtype) -> None:
    assert_equal(random_tokens(1_000_003, dtype=dtype, largest_log_ratio=1.0), build(kind))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("advantage", [1.3, -0.7, 0.0])
@pytest.mark.parametrize("kind", KINDS)
def test_extreme_log_ratios(kind: str, advantage: float, dtype: torch.dtype) -> None:
    log_ratios = torch.tensor([-math.inf, -1e4, -20.5, -20.0, -9.2, 0.0, 9.2, 20.0, 20.5, 1e4, math.inf], dtype=dtype)
    for log_ratio in (log_ratios, *log_ratios.split(1)):
        tokens = Tokens(
            logprobs=log_ratio,
            old_logprobs=torch.zeros_like(log_ratio),
            advantages=torch.full_like(log_ratio, advantage),
            loss_weights=torch.full_like(log_ratio, 0.125),
        )
        assert_equal(tokens, build(kind))
        _, gradient = tokens.run(fused_loss, build(kind))
        assert torch.equal(gradient[log_ratio.abs() > 20.0], torch.zeros_like(log_ratio)[log_ratio.abs() > 20.0])


@pytest.mark.parametrize("masked", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("kind", KINDS)
def test_masked_tokens_contribute_exactly_zero(kind: str, masked: float) -> None:
    places = torch.tensor([0, 3, 4, 10, 12])
    for dtype in (torch.float32, torch.float64):
        tokens = random_tokens(14, dtype=dtype, largest_log_ratio=1.0, masked=0.0)
        weights = tokens.loss_weights.index_fill(0, places, 0.0)
        plain, plain_gradient = Tokens(
            **{**{name: getattr(tokens, name) for name in Tokens.__slots__}, "loss_weights": weights}
        ).run(fused_loss, build(kind))
        corrupted = {
            name: getattr(tokens, name).index_fill(0, places, masked)
            for name in ("logprobs", "old_logprobs", "advantages")
        }
        out, gradient = Tokens(**corrupted, loss_weights=weights).run(fused_loss, build(kind))
        assert torch.equal(out.loss, plain.loss)
        assert torch.equal(gradient, plain_gradient)
        assert torch.equal(gradient[places], torch.zeros(5, dtype=dtype))
        assert torch.equal(out.metrics.totals, plain.metrics.totals)
        assert torch.equal(out.metrics.log_ratio, plain.metrics.log_ratio)
        assert_equal(Tokens(**corrupted, loss_weights=weights), build(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_all_masked_and_zero_advantages(kind: str) -> None:
    broken = torch.full((9,), math.nan)
    masked = Tokens(logprobs=broken, old_logprobs=broken, advantages=broken, loss_weights=torch.zeros(9))
    out, gradient = masked.run(fused_loss, build(kind))
    assert out.loss.item() == 0.0
    assert torch.equal(gradient, torch.zeros(9))
    assert out.metrics.totals.tolist() == [0.0] * 5
    assert out.metrics.largest_log_ratio.item() == -math.inf

    indifferent = Tokens(
        logprobs=torch.randn(9), old_logprobs=torch.zeros(9), advantages=torch.zeros(9), loss_weights=torch.ones(9)
    )
    out, gradient = indifferent.run(fused_loss, build(kind))
    assert out.loss.item() == 0.0
    assert torch.equal(gradient, torch.zeros(9))
    assert_equal(indifferent, build(kind))


def test_the_largest_log_ratio_ignores_masked_tokens() -> None:
    tokens = Tokens(
        logprobs=torch.tensor([-3.0, -1.0, 5.0]),
        old_logprobs=torch.zeros(3),
        advantages=torch.ones(3),
        loss_weights=torch.tensor([1.0, 1.0, 0.0]),
    )
    out, _ = tokens.run(fused_loss, build("erf"))
    assert out.metrics.largest_log_ratio.item() == -1.0


def paper_token(kind: str, log_ratio: float, advantage: float) -> tuple[float, float]:
    """(f, f') of one token in float64, from the paper's table; both powers by their antiderivatives."""
    ratio, tau = math.exp(log_ratio), TAU_POS if advantage > 0 else TAU_NEG
    y = tau * (ratio - 1)
    if kind == "sigmoid":
        decay = math.exp(-abs(y))
        return (4 / tau) * (1 if y > 0 else decay) / (1 + decay), 4 * decay / (1 + decay) ** 2
    if kind == "clip":
        if advantage > 0:
            return min(ratio, 1 + EPSILON_HIGH), float(ratio <= 1 + EPSILON_HIGH)
        return max(ratio, 1 - EPSILON_LOW), float(ratio >= 1 - EPSILON_LOW)
    h = 1 + y * y
    integral, slope = {
        "erf": (math.sqrt(math.pi / 2) * math.erf(y / math.sqrt(2)), math.exp(-y * y / 2)),
        "arctan": (math.atan(y), 1 / h),
        "softsign": (y / math.sqrt(h), h**-1.5),
        "power 2": (y / (2 * h) + math.atan(y) / 2, h**-2),
        "power 2.5": (y / h**0.5 - (y / h**0.5) ** 3 / 3, h**-2.5),
    }[kind]
    return 1 + integral / tau, slope


@pytest.mark.parametrize("kind", ["sigmoid", "erf", "arctan", "softsign", "power 2", "power 2.5", "clip"])
def test_fused_equals_the_paper(kind: str) -> None:
    tokens = random_tokens(257, dtype=torch.float64, largest_log_ratio=math.log(1e4), masked=0.1)
    out, gradient = tokens.run(fused_loss, build(kind))
    losses, gradients, slopes, weights = [], [], [], []
    columns = (tokens.logprobs - tokens.old_logprobs, tokens.advantages, tokens.loss_weights)
    for log_ratio, advantage, weight in zip(*(column.tolist() for column in columns), strict=True):
        value, slope = paper_token(kind, log_ratio, advantage)
        losses.append(-weight * value * advantage)
        gradients.append(-weight * slope * math.exp(log_ratio) * advantage)
        if weight:
            slopes.append(slope)
            weights.append(slope * math.exp(log_ratio))
    assert out.loss.item() == pytest.approx(math.fsum(losses), rel=1e-11, abs=1e-13)
    np.testing.assert_allclose(gradient.numpy(), gradients, rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(out.metrics.slope[out.metrics.trained].numpy(), slopes, rtol=1e-9, atol=1e-300)
    expected = [len(weights), math.fsum(weights), math.fsum(weight**2 for weight in weights)]
    assert out.metrics.totals[[0, 3, 4]].tolist() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_an_upstream_gradient_scales(dtype: torch.dtype) -> None:
    tokens = random_tokens(100, dtype=dtype, largest_log_ratio=0.5)
    assert_equal(tokens, build("softsign"), upstream=-2.5)


def test_mixed_dtypes_and_strides_compute_as_the_reference() -> None:
    tokens = random_tokens(200, dtype=torch.float64, largest_log_ratio=0.5)
    mixed = Tokens(
        logprobs=tokens.logprobs.bfloat16()[::2],
        old_logprobs=tokens.old_logprobs.float()[::2],
        advantages=tokens.advantages[:1].expand(100),
        loss_weights=tokens.loss_weights.half()[::2],
    )
    assert_equal(mixed, build("arctan"))


def test_gradient_flows_into_logprobs_only_and_none_is_made_without_need() -> None:
    tokens = random_tokens(5, dtype=torch.float32, largest_log_ratio=0.1)
    columns = {field: getattr(tokens, field).clone().requires_grad_() for field in Tokens.__slots__}
    fused_loss(**columns, gate=build("sigmoid")).loss.backward()
    assert columns["logprobs"].grad is not None
    assert all(columns[field].grad is None for field in ("old_logprobs", "advantages", "loss_weights"))
    with torch.no_grad():
        assert not fused_loss(**columns, gate=build("sigmoid")).loss.requires_grad


def test_trained_is_a_loss_weight_that_is_not_0() -> None:
    for dtype, smallest in ((torch.float64, 5e-324), (torch.float32, 1e-45), (torch.bfloat16, 1e-40)):
        weights = torch.tensor([0.0, -0.0, smallest, -smallest, math.nan, math.inf, 1.0], dtype=dtype)
        zeros = torch.zeros_like(weights)
        out = fused_loss(logprobs=zeros, old_logprobs=zeros, advantages=zeros, loss_weights=weights, gate=build("erf"))
        assert torch.equal(out.metrics.trained, weights != 0)
        assert out.loss.isnan()


def test_nan_in_a_trained_token_shows() -> None:
    for field in ("logprobs", "old_logprobs", "advantages"):
        columns = dict.fromkeys(Tokens.__slots__, torch.ones(3)) | {field: torch.tensor([0.5, math.nan, 0.5])}
        assert_equal(Tokens(**columns), build("clip"))
        assert Tokens(**columns).run(fused_loss, build("erf"))[0].loss.isnan()


@dataclass(frozen=True)
class Stranger:
    """A gate that no kernel knows."""

    name: str = "stranger"

    def value(self, ratio: Tensor, positive: Tensor) -> Tensor:
        return ratio.sin()

    def slope(self, ratio: Tensor, positive: Tensor) -> Tensor:
        return ratio.cos()


def test_a_shape_of_ones_own_runs_fused_by_its_own_formulas() -> None:
    shape = GateShape(
        name="sigmoid",  # the formulas count, not the name
        value=lambda ratio, tau: 3.0 * arctan_value(ratio, tau),
        slope=lambda ratio, tau: 3.0 * arctan_slope(ratio, tau),
        half_width=1.0,
    )
    assert_equal(
        random_tokens(50, dtype=torch.float64, largest_log_ratio=0.5), SoftGate(shape=shape, tau_pos=2.0, tau_neg=3.0)
    )


def test_the_choice_of_the_kernel() -> None:
    for kind in KINDS:
        gate = build(kind)
        assert has_kernel(gate, CPU)
        assert loss_function_for(gate, kernel="auto", device=CPU) is fused_loss
        assert loss_function_for(gate, kernel="fused", device=CPU) is fused_loss
        assert loss_function_for(gate, kernel="reference", device=CPU) is reference_loss
    for stranger in (Stranger(), ValueGate(gate=Stranger(), name="other")):
        assert not has_kernel(stranger, CPU)
        assert loss_function_for(stranger, kernel="auto", device=CPU) is reference_loss
        with pytest.raises(
            ValueError, match=r"^gate.kernel=fused: gate \w+ has no kernel on cpu; set gate.kernel=reference or"
        ):
            loss_function_for(stranger, kernel="fused", device=CPU)
    tokens = random_tokens(3, dtype=torch.float32, largest_log_ratio=0.5)
    with pytest.raises(ValueError, match="gate stranger has no kernel"):
        tokens.run(fused_loss, Stranger())
    assert not has_kernel(build("erf"), torch.device("meta"))
