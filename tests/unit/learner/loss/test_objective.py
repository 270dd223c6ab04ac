"""The gated objective against a scalar float64 reference of the paper's equations 2-4, and its exact invariances."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gates import GATES, Gate, get_gate
from learner.loss.objective import gated_objective

TAU_POS, TAU_NEG, EPSILON_LOW, EPSILON_HIGH = 10.0, 12.0, 0.2, 0.28
PROPERTY = settings(derandomize=True, deadline=None, max_examples=50)
MASKED_VALUES = (math.nan, math.inf, -math.inf, 1e30, 0.0)


def build(name: str) -> Gate:
    if name == "clip":
        return get_gate("clip", epsilon_low=EPSILON_LOW, epsilon_high=EPSILON_HIGH)
    if name == "power":
        return get_gate(name, tau_pos=TAU_POS, tau_neg=TAU_NEG, p=2.0)
    return get_gate(name, tau_pos=TAU_POS, tau_neg=TAU_NEG)


def paper_gate(name: str, ratio: float, advantage: float) -> tuple[float, float]:
    """(f, f') of one token, from the paper's table."""
    tau = TAU_POS if advantage > 0 else TAU_NEG
    x = tau * (ratio - 1)
    if name == "sigmoid":
        decay = math.exp(-abs(x))
        return (4 / tau) * (1 if x > 0 else decay) / (1 + decay), 4 * decay / (1 + decay) ** 2
    if name == "erf":
        return 1 + math.sqrt(math.pi / (2 * tau**2)) * math.erf(x / math.sqrt(2)), math.exp(-(x**2) / 2)
    if name == "arctan":
        return 1 + math.atan(x) / tau, 1 / (1 + x**2)
    if name == "power":  # p = 2
        return 1 + (x / (1 + x**2) + math.atan(x)) / (2 * tau), (1 + x**2) ** -2
    if name == "softsign":
        return 1 + (ratio - 1) / math.sqrt(1 + x**2), (1 + x**2) ** -1.5
    if advantage > 0:
        return min(ratio, 1 + EPSILON_HIGH), float(ratio <= 1 + EPSILON_HIGH)
    return max(ratio, 1 - EPSILON_LOW), float(ratio >= 1 - EPSILON_LOW)


def paper_objective(name: str, log_ratio: float, advantage: float, weight: float) -> tuple[float, float]:
    """(loss, its derivative by the logprob) of one token; beyond +-20 the log-ratio counts as the limit, a constant."""
    limited = min(max(log_ratio, -20.0), 20.0)
    ratio = math.exp(limited)
    value, slope = paper_gate(name, ratio, advantage)
    derivative = -weight * slope * ratio * advantage if limited == log_ratio else 0.0
    return -weight * value * advantage, derivative


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """Inputs of the objective for T tokens."""

    logprobs: torch.Tensor
    old_logprobs: torch.Tensor
    advantages: torch.Tensor
    loss_weights: torch.Tensor

    def run(self, gate: Gate) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss, gradient of logprobs)."""
        logprobs = self.logprobs.clone().requires_grad_()
        out = gated_objective(
            logprobs=logprobs,
            old_logprobs=self.old_logprobs,
            advantages=self.advantages,
            loss_weights=self.loss_weights,
            gate=gate,
        )
        out.loss.backward()
        assert logprobs.grad is not None
        return out.loss.detach(), logprobs.grad

    def reference(self, name: str) -> tuple[float, np.ndarray]:
        columns = (self.logprobs.double() - self.old_logprobs.double(), self.advantages, self.loss_weights)
        tokens = [paper_objective(name, *row) for row in zip(*(c.tolist() for c in columns), strict=True)]
        return math.fsum(loss for loss, _ in tokens), np.array([derivative for _, derivative in tokens])


def random_tokens(num_tokens: int, *, dtype: torch.dtype, log_ratio_limit: float, seed: int = 0) -> Tokens:
    """Log-ratios spread over +-limit, advantages of both signs with zeros among them, uneven weights."""
    generator = torch.Generator().manual_seed(seed)
    old_logprobs = -5 * torch.rand(num_tokens, generator=generator, dtype=torch.float64)
    log_ratio = log_ratio_limit * (2 * torch.rand(num_tokens, generator=generator, dtype=torch.float64) - 1)
    advantages = torch.randn(num_tokens, generator=generator, dtype=torch.float64)
    advantages[::7] = 0.0
    weights = torch.rand(num_tokens, generator=generator, dtype=torch.float64) / num_tokens + 1e-3
    columns = (old_logprobs + log_ratio, old_logprobs, advantages, weights)
    names = ("logprobs", "old_logprobs", "advantages", "loss_weights")
    return Tokens(**{name: column.to(dtype) for name, column in zip(names, columns, strict=True)})


@pytest.mark.parametrize("log_ratio_limit", [0.05, 1.0, math.log(1e4)])
@pytest.mark.parametrize("num_tokens", [1, 8, 257])
@pytest.mark.parametrize("name", GATES)
def test_loss_and_gradient_equal_the_paper_in_float64(name: str, num_tokens: int, log_ratio_limit: float) -> None:
    tokens = random_tokens(num_tokens, dtype=torch.float64, log_ratio_limit=log_ratio_limit)
    loss, gradient = tokens.run(build(name))
    expected_loss, expected_gradient = tokens.reference(name)
    assert loss.dtype == gradient.dtype == torch.float64
    assert loss.item() == pytest.approx(expected_loss, rel=1e-11, abs=1e-15)
    np.testing.assert_allclose(gradient.numpy(), expected_gradient, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("log_ratio_limit", [0.05, 1.0, math.log(1e4)])
@pytest.mark.parametrize("name", GATES)
def test_loss_and_gradient_equal_the_paper_in_float32(name: str, log_ratio_limit: float) -> None:
    tokens = random_tokens(257, dtype=torch.float32, log_ratio_limit=log_ratio_limit)
    loss, gradient = tokens.run(build(name))
    expected_loss, expected_gradient = tokens.reference(name)
    assert loss.dtype == gradient.dtype == torch.float32
    assert loss.item() == pytest.approx(expected_loss, rel=1e-5)
    np.testing.assert_allclose(gradient.numpy(), expected_gradient, rtol=5e-4, atol=1e-36)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("advantage", [1.3, -0.7, 0.0])
@pytest.mark.parametrize("name", GATES)
def test_extreme_log_ratios_stay_finite_and_equal_the_limited_reference(
    name: str, advantage: float, dtype: torch.dtype
) -> None:
    log_ratios = torch.tensor([-1e4, -100.0, -20.5, -19.5, 0.0, 19.5, 20.5, 100.0, 1e4], dtype=dtype)
    tokens = Tokens(
        logprobs=log_ratios,
        old_logprobs=torch.zeros_like(log_ratios),
        advantages=torch.full_like(log_ratios, advantage),
        loss_weights=torch.full_like(log_ratios, 0.125),
    )
    loss, gradient = tokens.run(build(name))
    expected_loss, expected_gradient = tokens.reference(name)
    assert gradient.isfinite().all()
    assert loss.item() == pytest.approx(expected_loss, rel=1e-5)
    np.testing.assert_allclose(gradient.double().numpy(), expected_gradient, rtol=1e-4, atol=1e-36)


@pytest.mark.parametrize("masked", MASKED_VALUES)
@pytest.mark.parametrize("name", GATES)
def test_masked_tokens_contribute_exactly_zero(name: str, masked: float) -> None:
    tokens = random_tokens(9, dtype=torch.float64, log_ratio_limit=1.0)
    expected_loss, expected_gradient = tokens.run(build(name))
    places = torch.tensor([0, 3, 4, 10, 12])
    kept = torch.ones(14, dtype=torch.bool).index_fill(0, places, False)

    def pad(column: torch.Tensor, value: float) -> torch.Tensor:
        return torch.full((14,), value, dtype=column.dtype).masked_scatter(kept, column)

    for corrupted in ("logprobs", "old_logprobs", "advantages", "all"):
        values = {
            field: pad(getattr(tokens, field), masked if corrupted in (field, "all") else -1.0)
            for field in ("logprobs", "old_logprobs", "advantages")
        }
        loss, gradient = Tokens(**values, loss_weights=pad(tokens.loss_weights, 0.0)).run(build(name))
        assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-14)
        torch.testing.assert_close(gradient[kept], expected_gradient, rtol=1e-12, atol=0.0)
        assert torch.equal(gradient[~kept], torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("name", GATES)
def test_all_masked_or_empty_is_exactly_zero(name: str) -> None:
    broken = torch.full((4,), math.nan)
    masked = Tokens(logprobs=broken, old_logprobs=broken, advantages=broken, loss_weights=torch.zeros(4))
    empty = Tokens(**dict.fromkeys(("logprobs", "old_logprobs", "advantages", "loss_weights"), torch.zeros(0)))
    for tokens in (masked, empty):
        loss, gradient = tokens.run(build(name))
        assert loss.item() == 0.0
        assert torch.equal(gradient, torch.zeros_like(tokens.logprobs))


@pytest.mark.parametrize("name", GATES)
def test_zero_advantages_give_no_gradient(name: str) -> None:
    tokens = random_tokens(16, dtype=torch.float32, log_ratio_limit=2.0)
    zero = Tokens(
        logprobs=tokens.logprobs,
        old_logprobs=tokens.old_logprobs,
        advantages=torch.zeros(16),
        loss_weights=tokens.loss_weights,
    )
    loss, gradient = zero.run(build(name))
    assert loss.item() == 0.0
    assert torch.equal(gradient, torch.zeros(16))


def test_sigmoid_equals_trl() -> None:
    """TRL's loss_type="sapo", averaged over sequences: tau is 1.0 where A > 0 and 1.05 elsewhere."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.arange(12) < torch.tensor([[12], [1], [7], [5]])  # [4, 12], padded rows as TRL holds them
    old_logprobs = -3 * torch.rand(4, 12, generator=generator)
    padded_logprobs = old_logprobs + 0.3 * torch.randn(4, 12, generator=generator)
    advantages = torch.tensor([[1.2], [-0.4], [0.0], [-0.8]])

    trl_logprobs = padded_logprobs.clone().requires_grad_()
    ratio = torch.exp(trl_logprobs - old_logprobs)
    tau = torch.where(advantages > 0, 1.0, 1.05)
    per_token_loss = -(4 / tau) * torch.sigmoid(tau * (ratio - 1)) * advantages
    trl_loss = ((per_token_loss * mask).sum(-1) / mask.sum(-1)).mean()
    trl_loss.backward()
    assert trl_logprobs.grad is not None

    weights = (1 / (4 * mask.sum(-1, keepdim=True))).expand(4, 12)
    packed = Tokens(
        logprobs=padded_logprobs[mask],
        old_logprobs=old_logprobs[mask],
        advantages=advantages.expand(4, 12)[mask],
        loss_weights=weights[mask],
    )
    loss, gradient = packed.run(get_gate("sigmoid", tau_pos=1.0, tau_neg=1.05))
    assert loss.item() == pytest.approx(trl_loss.item(), rel=1e-6)
    torch.testing.assert_close(gradient, trl_logprobs.grad[mask], rtol=1e-5, atol=1e-9)


@PROPERTY
@given(name=st.sampled_from(GATES), seed=st.integers(0, 10_000), cuts=st.lists(st.integers(0, 40), max_size=6))
def test_splits_and_orders_add_up_to_the_whole(name: str, seed: int, cuts: list[int]) -> None:
    tokens = random_tokens(40, dtype=torch.float64, log_ratio_limit=1.0, seed=seed)
    whole_loss, whole_gradient = tokens.run(build(name))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    loss, gradient = torch.zeros((), dtype=torch.float64), torch.zeros(40, dtype=torch.float64)
    bounds = [0, *sorted(cuts), 40]
    for start, end in pairwise(bounds):
        places = order[start:end]
        part = Tokens(**{field: getattr(tokens, field)[places] for field in Tokens.__slots__})
        part_loss, part_gradient = part.run(build(name))
        loss += part_loss
        gradient[places] += part_gradient
    assert loss.item() == pytest.approx(whole_loss.item(), rel=1e-12)
    torch.testing.assert_close(gradient, whole_gradient, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("name", GATES)
def test_gradient_flows_into_logprobs_only(name: str) -> None:
    tokens = random_tokens(5, dtype=torch.float32, log_ratio_limit=0.1)
    columns = {field: getattr(tokens, field).clone().requires_grad_() for field in Tokens.__slots__}
    out = gated_objective(**columns, gate=build(name))
    out.loss.backward()
    assert columns["logprobs"].grad is not None
    assert all(columns[field].grad is None for field in ("old_logprobs", "advantages", "loss_weights"))


def test_metrics_are_detached_and_hold_what_the_loss_used() -> None:
    tokens = random_tokens(6, dtype=torch.float32, log_ratio_limit=1.0)
    weights = tokens.loss_weights.clone()
    weights[2] = 0.0
    metrics = gated_objective(
        logprobs=tokens.logprobs.clone().requires_grad_(),
        old_logprobs=tokens.old_logprobs,
        advantages=tokens.advantages,
        loss_weights=weights,
        gate=build("softsign"),
    ).metrics
    assert metrics.trained.tolist() == [True, True, False, True, True, True]
    for place in (0, 1, 3, 4, 5):
        log_ratio = tokens.logprobs[place].item() - tokens.old_logprobs[place].item()
        _, slope = paper_gate("softsign", math.exp(log_ratio), tokens.advantages[place].item())
        assert metrics.log_ratio[place].item() == pytest.approx(log_ratio, abs=1e-6)
        assert metrics.ratio[place].item() == pytest.approx(math.exp(log_ratio), rel=1e-5)
        assert metrics.slope[place].item() == pytest.approx(slope, rel=1e-4)
    assert not any(getattr(metrics, field).requires_grad for field in metrics.__slots__)


def test_half_precision_logprobs_compute_in_float32() -> None:
    tokens = random_tokens(64, dtype=torch.bfloat16, log_ratio_limit=0.3)
    loss, gradient = tokens.run(build("erf"))
    assert loss.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    assert loss.item() == pytest.approx(tokens.reference("erf")[0], rel=1e-4)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"advantages of shape \(1,\): must have the shape of logprobs, \(3,\)"):
        gated_objective(
            logprobs=torch.zeros(3),
            old_logprobs=torch.zeros(3),
            advantages=torch.zeros(1),
            loss_weights=torch.zeros(3),
            gate=build("clip"),
        )
