"""Each term of the objective against a float64 reference of its equation, one sequence or token at a time."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gates import GATES, Gate, get_gate
from gates.kernels import fused_loss
from gates.loss import LossFunction, reference_loss
from learner.loss.objective import gated_objective
from learner.loss.terms import correction_weights, sequence_log_ratio, token_kl, weighted_sum

LENGTHS = (1, 7, 2, 13, 5)
BROKEN = (math.nan, math.inf, -math.inf)


def make(seed: int = 0, *, scale: float = 0.4, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """(logprobs, other logprobs, sequence_index) of sequences of LENGTHS."""
    generator = torch.Generator().manual_seed(seed)
    num_tokens = sum(LENGTHS)
    other = -3 * torch.rand(num_tokens, generator=generator, dtype=torch.float64)
    logprobs = other + scale * torch.randn(num_tokens, generator=generator, dtype=torch.float64)
    index = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    return logprobs.to(dtype), other.to(dtype), index


def all_trained(logprobs: Tensor) -> Tensor:
    return torch.ones_like(logprobs, dtype=torch.bool)


def build(name: str) -> Gate:
    if name == "clip":
        return get_gate("clip", epsilon_low=0.05, epsilon_high=0.1)
    return get_gate(name, tau_pos=6.0, tau_neg=9.0, **({"p": 2.0} if name == "power" else {}))


def kl_by_hand(estimator: str, log_current: float, log_reference: float) -> tuple[float, float]:
    """(estimate, its derivative by the logprob), from probabilities."""
    ratio = math.exp(log_reference) / math.exp(log_current)  # r = q / p, as in the note on approximating KL
    if estimator == "k1":
        return -math.log(ratio), 1.0
    if estimator == "k2":
        return 0.5 * math.log(ratio) ** 2, -math.log(ratio)
    return (ratio - 1.0) - math.log(ratio), 1.0 - ratio


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_of_each_token_and_its_gradient(estimator: str) -> None:
    logprobs, reference, _ = make()
    logprobs.requires_grad_()
    kl = token_kl(logprobs, reference, estimator=estimator, trained=all_trained(logprobs))  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(kl.sum(), logprobs)
    pairs = zip(logprobs.tolist(), reference.tolist(), strict=True)
    expected = np.array([kl_by_hand(estimator, *pair) for pair in pairs])
    np.testing.assert_allclose(kl.detach().numpy(), expected[:, 0], rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(gradient.numpy(), expected[:, 1], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_kl_estimates_are_unbiased_and_gradients_are_what_the_docs_say(estimator: str) -> None:
    """Over all outcomes of a small distribution instead of samples: value, and the gradient of the loss term."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(9, generator=generator, dtype=torch.float64).requires_grad_()
    reference = torch.log_softmax(torch.randn(9, generator=generator, dtype=torch.float64), dim=0)
    policy = torch.log_softmax(logits, dim=0)
    probability = policy.exp().detach()

    kl = token_kl(policy, reference, estimator=estimator, trained=all_trained(policy))  # type: ignore[arg-type]
    exact = (policy.exp() * (policy - reference)).sum()
    assert (probability * kl).sum().item() == pytest.approx(exact.item(), rel=1e-12)

    (found,) = torch.autograd.grad((probability * kl).sum(), logits, retain_graph=True)
    other_way = (reference.exp() * (reference - policy)).sum()  # KL(reference || policy)
    expected = {"k1": torch.zeros_like(logits), "k3": torch.autograd.grad(other_way, logits, retain_graph=True)[0]}
    torch.testing.assert_close(found, expected[estimator], rtol=1e-10, atol=1e-14)


def test_the_gradient_of_k2_is_that_of_the_kl_itself() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(9, generator=generator, dtype=torch.float64).requires_grad_()
    reference = torch.log_softmax(torch.randn(9, generator=generator, dtype=torch.float64), dim=0)
    policy = torch.log_softmax(logits, dim=0)
    kl = token_kl(policy, reference, estimator="k2", trained=all_trained(policy))
    (found,) = torch.autograd.grad((policy.exp().detach() * kl).sum(), logits, retain_graph=True)
    (expected,) = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_far_away_kl_stays_finite(estimator: str) -> None:
    logprobs = torch.tensor([-1e4, 0.0, 1e4], requires_grad=True)
    kl = token_kl(logprobs, torch.zeros(3), estimator=estimator, trained=all_trained(logprobs))  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(kl.sum(), logprobs)
    assert kl.isfinite().all()
    assert gradient.isfinite().all()


def test_unknown_kinds_are_refused() -> None:
    one = torch.zeros(1)
    with pytest.raises(ValueError, match="estimator='k4': must be k1, k2 or k3"):
        token_kl(one, one, estimator="k4", trained=all_trained(one))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="kind='full': must be tis or mis"):
        correction_weights(one, one, kind="full", cap=2.0, trained=all_trained(one))  # type: ignore[arg-type]


@pytest.mark.parametrize("cap", [1.1, 2.0])
def test_correction_weights_of_each_token(cap: float) -> None:
    old, rollout, _ = make(seed=1, scale=0.7)
    exact = [math.exp(a) / math.exp(b) for a, b in zip(old.tolist(), rollout.tolist(), strict=True)]
    expected = {
        "tis": ([min(w, cap) for w in exact], [w > cap for w in exact]),
        "mis": (
            [w if 1 / cap <= w <= cap else 0.0 for w in exact],
            [not 1 / cap <= w <= cap for w in exact],
        ),
    }
    for kind, (weights, limited) in expected.items():
        assert any(limited)
        assert not all(limited)
        found = correction_weights(
            old.requires_grad_(),
            rollout,
            kind=kind,  # type: ignore[arg-type]
            cap=cap,
            trained=all_trained(old),
        )
        np.testing.assert_allclose(found.weights.numpy(), weights, rtol=1e-12)
        assert found.limited.tolist() == limited
        assert not found.weights.requires_grad


def test_sequence_log_ratio_is_the_mean_and_its_gradient_is_shared_out() -> None:
    logprobs, old, index = make(seed=2)
    upstream = torch.randn(len(logprobs), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found = sequence_log_ratio(
        logprobs.requires_grad_(), old.requires_grad_(), sequence_index=index, trained=all_trained(logprobs)
    )
    (gradient,) = torch.autograd.grad((found * upstream).sum(), logprobs, retain_graph=True)
    assert torch.autograd.grad(found.sum(), old, allow_unused=True) == (None,)
    for place, length in enumerate(LENGTHS):
        tokens = index == place
        mean = math.fsum((logprobs - old)[tokens].tolist()) / length
        np.testing.assert_allclose(found[tokens].detach().numpy(), mean, rtol=1e-12)
        shared = math.fsum(upstream[tokens].tolist()) / length
        np.testing.assert_allclose(gradient[tokens].numpy(), shared, rtol=1e-12)


@pytest.mark.parametrize("broken", BROKEN)
def test_untrained_tokens_reach_no_value_and_no_gradient(broken: float) -> None:
    logprobs, other, index = make(seed=6)
    trained = torch.rand(len(logprobs), generator=torch.Generator().manual_seed(7)) > 0.4
    hidden_logprobs = torch.where(trained, logprobs, broken).requires_grad_()
    hidden_other = torch.where(trained, other, broken)
    zeroed_logprobs, zeroed_other = torch.where(trained, logprobs, 0.0), torch.where(trained, other, 0.0)
    weights = torch.where(trained, 0.3, 0.0)

    ratio = sequence_log_ratio(hidden_logprobs, hidden_other, sequence_index=index, trained=trained)
    for place in range(len(LENGTHS)):
        own = trained & (index == place)
        expected = (zeroed_logprobs - zeroed_other)[own].mean().item() if own.any() else 0.0
        np.testing.assert_allclose(ratio[index == place].detach().numpy(), expected, rtol=1e-10)
    kl = token_kl(hidden_logprobs, hidden_other, estimator="k3", trained=trained)
    total = weighted_sum(ratio + kl, weights) + weighted_sum(hidden_logprobs, weights)
    assert total.isfinite()
    (gradient,) = torch.autograd.grad(total, hidden_logprobs)
    assert torch.equal(gradient[~trained], torch.zeros_like(gradient[~trained]))
    assert gradient.isfinite().all()
    correction = correction_weights(hidden_other, hidden_logprobs, kind="mis", cap=2.0, trained=trained)
    assert torch.equal(correction.weights[~trained], torch.ones_like(logprobs[~trained]))
    assert not correction.limited[~trained].any()


@pytest.mark.parametrize("loss_function", [reference_loss, fused_loss], ids=["reference", "fused"])
@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("by_sequence", [False, True])
@pytest.mark.parametrize("name", GATES)
def test_ratio_and_correction_with_every_gate(
    name: str, by_sequence: bool, corrected: bool, loss_function: LossFunction
) -> None:
    logprobs, old, index = make(seed=8)
    rng = np.random.default_rng(9)
    advantages = torch.tensor(rng.normal(size=len(LENGTHS)))[index]
    weights = torch.tensor(rng.random(len(logprobs)) + 0.1)
    correction = torch.tensor(np.where(rng.random(len(logprobs)) < 0.3, 0.0, rng.random(len(logprobs)) * 2))
    out = gated_objective(
        logprobs=logprobs.requires_grad_(),
        old_logprobs=old,
        advantages=advantages,
        loss_weights=weights,
        gate=build(name),
        loss_function=loss_function,
        sequence_index=index if by_sequence else None,
        correction=correction if corrected else None,
    )
    (gradient,) = torch.autograd.grad(out.loss, logprobs)

    current = logprobs.detach().clone().requires_grad_()
    loss = torch.zeros((), dtype=torch.float64)
    ratios = []
    for place in range(len(LENGTHS)):
        tokens = torch.nonzero(index == place)[:, 0]
        log_ratio = current[tokens] - old[tokens]
        ratio = torch.exp(log_ratio.mean()).expand(len(tokens)) if by_sequence else torch.exp(log_ratio)
        value = build(name).value(ratio, advantages[tokens] > 0)
        factor = correction[tokens] if corrected else 1.0
        loss = loss - (weights[tokens] * factor * value * advantages[tokens]).sum()
        ratios.append(ratio.detach())
    (expected,) = torch.autograd.grad(loss, current)
    assert out.loss.item() == pytest.approx(loss.item(), rel=1e-11)
    np.testing.assert_allclose(gradient.numpy(), expected.numpy(), rtol=1e-9, atol=1e-15)
    # what a correction leaves out is still looked at: every token carries its ratio, or its sequence's
    assert out.metrics.trained.all()
    np.testing.assert_allclose(out.metrics.ratio.numpy(), torch.cat(ratios).numpy(), rtol=1e-12)
    assert out.metrics.totals[0].item() == len(logprobs)


def test_a_correction_of_another_shape_is_refused() -> None:
    zeros = torch.zeros(3)
    columns = dict.fromkeys(("logprobs", "old_logprobs", "advantages", "loss_weights"), zeros)
    with pytest.raises(ValueError, match=r"correction of shape \(1,\): must have the shape of logprobs, \(3,\)"):
        gated_objective(**columns, gate=build("clip"), correction=torch.ones(1))
