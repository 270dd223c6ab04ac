"""Step statistics against a direct numpy computation over all tokens, merged over micro-batches and ranks."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from gates import get_gate
from gates.loss import GateLoss
from learner.loss.objective import gated_objective
from learner.loss.statistics import StepStatistics

NUM_GROUPS, NUM_TOKENS = 5, 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokens:
    """Everything add() sees, for K tokens."""

    out: GateLoss
    group_index: torch.Tensor
    advantages: torch.Tensor
    entropy: torch.Tensor
    mismatch: torch.Tensor
    same_weights: torch.Tensor

    def add_to(self, statistics: StepStatistics) -> None:
        statistics.add(
            self.out.metrics,
            group_index=self.group_index,
            advantages=self.advantages,
            loss=self.out.loss,
            entropy=self.entropy,
            mismatch_log_ratio=self.mismatch,
            same_weights=self.same_weights,
        )


def no_mismatch(num_tokens: int) -> dict[str, torch.Tensor]:
    return {"mismatch_log_ratio": torch.zeros(num_tokens), "same_weights": torch.zeros(num_tokens, dtype=torch.bool)}


def make_tokens(*, seed: int, advantage_sign: int = 0, group_limit: int = NUM_GROUPS - 1) -> Tokens:
    """Random tokens of all groups but the last, a fifth of them masked and full of nan."""
    rng = np.random.default_rng(seed)
    group_index = rng.integers(group_limit, size=NUM_TOKENS)
    advantages = rng.normal(size=NUM_TOKENS)
    advantages = np.abs(advantages) * advantage_sign if advantage_sign else advantages * (rng.random(NUM_TOKENS) > 0.1)
    weights = np.where(rng.random(NUM_TOKENS) < 0.2, 0.0, rng.random(NUM_TOKENS))
    hidden = np.where(weights == 0.0, np.nan, 0.0)
    out = gated_objective(
        logprobs=torch.tensor(rng.normal(scale=0.3, size=NUM_TOKENS) + hidden).requires_grad_(),
        old_logprobs=torch.zeros(NUM_TOKENS, dtype=torch.float64),
        advantages=torch.tensor(advantages),
        loss_weights=torch.tensor(weights),
        gate=get_gate("softsign", tau_pos=5.0, tau_neg=7.0),
    )
    return Tokens(
        out=out,
        group_index=torch.tensor(group_index),
        advantages=torch.tensor(advantages),
        entropy=torch.tensor(rng.random(NUM_TOKENS) + hidden),
        mismatch=torch.tensor(rng.normal(scale=0.05, size=NUM_TOKENS) + hidden),
        same_weights=torch.tensor(rng.random(NUM_TOKENS) < 0.5),
    )


def direct(parts: list[Tokens]) -> dict[str, float]:
    """The metrics' definitions, on all trained tokens at once."""
    trained = np.concatenate([part.out.metrics.trained.numpy() for part in parts])

    def column(name: str) -> np.ndarray:
        sources = [part.out.metrics if hasattr(part.out.metrics, name) else part for part in parts]
        return np.concatenate([getattr(source, name).numpy() for source in sources])[trained]

    ratio, slope, group, advantages = (column(n) for n in ("ratio", "slope", "group_index", "advantages"))
    mismatch, weight = column("mismatch")[column("same_weights")], slope * ratio

    def eur(mask: np.ndarray) -> float:
        return float(np.mean([slope[mask & (group == g)].mean() for g in np.unique(group[mask])]))

    return {
        "loss": sum(part.out.loss.item() for part in parts),
        "policy/entropy": column("entropy").mean(),
        "ratio/mean": ratio.mean(),
        "ratio/variance": ratio.var(),
        "ratio/max": ratio.max(),
        "ratio/min": ratio.min(),
        "gate/eur": eur(np.ones(len(ratio), dtype=bool)),
        "gate/eur_pos": eur(advantages > 0),
        "gate/eur_neg": eur(advantages <= 0),
        "gate/weight_ess": weight.sum() ** 2 / (len(weight) * (weight**2).sum()),
        "mismatch/kl": (np.exp(mismatch) - 1 - mismatch).mean(),
        "mismatch/max": np.abs(mismatch).max(),
    }


def gather(parts: list[Tokens]) -> StepStatistics:
    statistics = StepStatistics(num_groups=NUM_GROUPS)
    for part in parts:
        part.add_to(statistics)
    return statistics


@pytest.mark.parametrize("num_parts", [1, 4])
def test_equals_the_direct_computation(num_parts: int) -> None:
    parts = [make_tokens(seed=seed) for seed in range(num_parts)]
    statistics = gather(parts)
    assert statistics.summarize() == pytest.approx(direct(parts), rel=1e-10)
    assert statistics.num_tokens == sum(int(part.out.metrics.trained.sum()) for part in parts)


def test_two_ranks_merge_to_one_by_sum_and_maximum() -> None:
    parts = [make_tokens(seed=seed) for seed in range(5)]
    first, second, merged = gather(parts[:2]), gather(parts[2:]), gather(parts[:2])
    merged.sums += second.sums  # as the ranks' all-reduces do
    merged.maxima = torch.maximum(merged.maxima, second.maxima)
    first.sums += second.sums  # what an all-reduce does
    first.maxima.copy_(torch.maximum(first.maxima, second.maxima))
    assert first.summarize() == merged.summarize() == pytest.approx(gather(parts).summarize(), rel=1e-12)


def test_a_rank_with_filler_only_changes_nothing() -> None:
    parts = [make_tokens(seed=0)]
    statistics = gather(parts)
    before = statistics.summarize()
    broken = torch.full((3,), torch.nan)
    filler = gated_objective(
        logprobs=broken,
        old_logprobs=broken,
        advantages=broken,
        loss_weights=torch.zeros(3),
        gate=get_gate("clip", epsilon_low=0.2, epsilon_high=0.2),
    )
    columns = {"advantages": broken, "entropy": broken, "mismatch_log_ratio": broken}
    columns["same_weights"] = torch.ones(3, dtype=torch.bool)
    group_index = torch.zeros(3, dtype=torch.int64)
    alone = StepStatistics(num_groups=NUM_GROUPS)
    for target in (statistics, alone):
        target.add(filler.metrics, group_index=group_index, loss=filler.loss, **columns)
    assert statistics.summarize() == before
    assert alone.summarize() == {}
    assert alone.num_tokens == 0


@pytest.mark.parametrize(("sign", "absent"), [(1, "gate/eur_neg"), (-1, "gate/eur_pos")])
def test_what_does_not_apply_is_absent(sign: int, absent: str) -> None:
    statistics = StepStatistics(num_groups=NUM_GROUPS)
    part = make_tokens(seed=1, advantage_sign=sign)
    replace(part, same_weights=torch.zeros_like(part.same_weights)).add_to(statistics)
    summary = statistics.summarize()
    assert set(direct([make_tokens(seed=1)])) - set(summary) == {absent, "mismatch/kl", "mismatch/max"}


def test_clip_eur_is_the_share_of_unclipped_tokens() -> None:
    out = gated_objective(
        logprobs=torch.log(torch.tensor([1.0, 1.3, 0.5, 0.9])),
        old_logprobs=torch.zeros(4),
        advantages=torch.tensor([1.0, 1.0, 1.0, -1.0]),
        loss_weights=torch.ones(4),
        gate=get_gate("clip", epsilon_low=0.2, epsilon_high=0.2),
    )
    statistics = StepStatistics(num_groups=1)
    statistics.add(
        out.metrics,
        group_index=torch.zeros(4, dtype=torch.int64),
        advantages=torch.tensor([1.0, 1.0, 1.0, -1.0]),
        loss=out.loss,
        entropy=torch.ones(4),
        **no_mismatch(4),
    )
    summary = statistics.summarize()
    assert summary["gate/eur"] == 0.75
    assert summary["gate/eur_pos"] == pytest.approx(2 / 3)
    assert summary["gate/eur_neg"] == 1.0


def test_variance_of_ratios_next_to_one_keeps_its_digits() -> None:
    log_ratio = torch.tensor([1e-7, -1e-7] * 50, dtype=torch.float64)
    out = gated_objective(
        logprobs=log_ratio,
        old_logprobs=torch.zeros_like(log_ratio),
        advantages=torch.ones_like(log_ratio),
        loss_weights=torch.ones_like(log_ratio),
        gate=get_gate("erf", tau_pos=10.0, tau_neg=12.0),
    )
    statistics = StepStatistics(num_groups=1)
    statistics.add(
        out.metrics,
        group_index=torch.zeros(100, dtype=torch.int64),
        advantages=torch.ones(100),
        loss=out.loss,
        entropy=torch.ones(100),
        **no_mismatch(100),
    )
    assert statistics.summarize()["ratio/variance"] == pytest.approx(1e-14, rel=1e-6)
