"""Logprobs, metrics and learning rates on real DeepSpeed ranks, however many there are and whenever they score."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from learner_ranks import all_steps, random_batch, rank_pool, save_tiny_model, tiny_spec
from sampled import prompt_length

from configs.lora import LoraConfig
from configs.objective import ObjectiveConfig
from learner.contract import StepReport, TrainBatch
from learner.spec import LearnerSpec
from rollout.contract import SampledTokens

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("model"), tied=True)


def test_recomputed_old_logprobs_train_like_equal_rollout_logprobs(model_path: str) -> None:
    batch = random_batch(num_groups=2, group_size=4, seed=4)
    specs = [
        tiny_spec(model_path, zero_stage=3, num_minibatches=2, old_logprobs=source, lr=1e-2)
        for source in ("rollout", "recompute")
    ]
    rollout, recompute, mismatched = rank_pool(2).run(both_denominators, specs, batch)[0]
    for with_rollout, with_recompute in zip(rollout, recompute, strict=True):
        assert without_spread(with_recompute) == pytest.approx(without_spread(with_rollout), rel=1e-4, abs=1e-9)
        for name in ("ratio/log_std_within", "ratio/log_std_between"):  # the rounding of logprobs, where ratios are 1
            assert with_recompute.metrics[name] == pytest.approx(with_rollout.metrics[name], rel=1e-4, abs=1e-6)
    assert rollout[0].metrics["mismatch/max"] < 1e-5
    assert recompute[1].metrics["ratio/max"] > 1.01, "the second step must have left ratio 1"
    # engines that disagree show in the mismatch, not in the ratio
    assert mismatched[0].metrics["mismatch/max"] > 0.1
    assert mismatched[0].metrics["mismatch/kl"] > 0.01
    assert mismatched[0].metrics["ratio/max"] == pytest.approx(1.0, abs=1e-5)
    assert "mismatch/max" not in mismatched[1].metrics


def without_spread(report: StepReport) -> dict[str, float]:
    return {name: value for name, value in report.metrics.items() if not name.startswith("ratio/log_std_")}


@pytest.mark.parametrize(("num_ranks", "zero_stage", "lora_rank"), [(1, 0, 0), (2, 3, 0), (2, 3, 2)])
def test_logprobs_scored_in_parts_equal_those_of_the_whole_batch_and_go_with_their_weights(
    model_path: str, num_ranks: int, zero_stage: int, lora_rank: int
) -> None:
    settings: dict[str, Any] = {"old_logprobs": "recompute", "lora": LoraConfig(rank=lora_rank), "lr": 1e-2}
    spec = replace(tiny_spec(model_path, zero_stage=zero_stage, **settings), objective=ObjectiveConfig(kl_coef=0.1))
    batch = random_batch(num_groups=3, group_size=4, seed=9)
    for whole, in_parts, after_steps, again in rank_pool(num_ranks).run(scored_in_parts, spec, batch):
        assert [scored.share for scored in (whole, in_parts, after_steps)] == [0.0, 8 / 12, 0.0]
        for name in ("old", "reference"):
            np.testing.assert_allclose(getattr(in_parts, name), getattr(whole, name), atol=1e-5)
        assert np.abs(after_steps.old - whole.old).max() > 1e-3, "the weights have moved"
        np.testing.assert_allclose(after_steps.reference, whole.reference, atol=1e-5)
        np.testing.assert_allclose(again.old, after_steps.old, atol=1e-5)


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a rank knows of its loaded batch."""

    old: np.ndarray  # [T], of all completions
    reference: np.ndarray  # [T]
    share: float


def scored_in_parts(join: dict[str, Any], spec: LearnerSpec, batch: TrainBatch) -> list[Scored]:
    """In a rank: a batch at once; 8 of 12 samples ahead, in two parts; the next iteration's, at once and in parts."""
    from learner.worker import LearnerWorker

    worker = LearnerWorker(spec, **join)

    def load(iteration: int, *ahead: slice) -> Scored:
        for part in ahead:
            worker.score_ahead(replace(batch, samples=batch.samples[part]))
        worker.load(batch, iteration)
        loaded = worker._loaded
        assert loaded is not None
        assert loaded.reference_logprobs is not None
        return Scored(
            old=np.concatenate(loaded.old_logprobs),
            reference=np.concatenate(loaded.reference_logprobs),
            share=worker.scored_ahead_share(),
        )

    results = [load(0), load(0, slice(9, 12), slice(2, 7))]
    for index in range(spec.num_steps):
        worker.step(index)
    results += [load(1), load(1, slice(0, 12, 5))]
    worker.engine.destroy()
    return results


def test_mismatch_counts_only_completions_of_the_weights_at_hand(model_path: str) -> None:
    spec = tiny_spec(model_path, zero_stage=2, num_minibatches=1)
    batch = random_batch(num_groups=2, group_size=4, seed=7)
    mixed, stale = rank_pool(2).run(first_step_of_each_staleness, spec, batch)[0]
    # the first completion agrees and is fresh; all others disagree, as they may after a version
    assert mixed.metrics["mismatch/max"] < 1e-5
    assert abs(mixed.metrics["mismatch/kl"]) < 1e-5
    assert mixed.metrics["ratio/max"] > 1.1
    assert not [name for name in stale.metrics if name.startswith("mismatch/")]


def first_step_of_each_staleness(join: dict[str, Any], spec: LearnerSpec, batch: TrainBatch) -> list[StepReport]:
    """In a rank: the first step with one fresh completion, whose rollout logprobs are the learner's, and with none."""
    from learner.worker import LearnerWorker

    reports = []
    for has_fresh in (True, False):
        worker = LearnerWorker(spec, **join)
        first = batch.samples[0]
        agreeing = replace(first, tokens=scored_by(worker, first.tokens))
        stale = [replace(sample, staleness=1) for sample in batch.samples]
        samples = (agreeing, *stale[1:]) if has_fresh else tuple(stale)
        worker.load(replace(batch, samples=samples), 0)
        reports.append(worker.step(0))
        worker.engine.destroy()
    return reports


def scored_by(worker: Any, tokens: SampledTokens) -> SampledTokens:
    """The same tokens with the learner's logprobs in place of the engine's."""
    return replace(tokens, rollout_logprobs=worker.score(tokens.token_ids, prompt_length(tokens)))


def both_denominators(join: dict[str, Any], specs: list[LearnerSpec], batch: TrainBatch) -> list[list[StepReport]]:
    """In a rank: an iteration under each spec where rollout and learner agree, then recomputed where they do not."""
    from learner.worker import LearnerWorker

    reports = []
    for spec, equal in ((specs[0], True), (specs[1], True), (specs[1], False)):
        worker = LearnerWorker(spec, **join)
        samples = batch.samples
        if equal:
            samples = tuple(replace(s, tokens=scored_by(worker, s.tokens)) for s in samples)
        worker.load(replace(batch, samples=samples), 0)
        reports.append([worker.step(index) for index in range(spec.num_steps)])
        worker.engine.destroy()
    return reports


def test_metrics_are_the_same_on_one_rank_and_on_two_and_the_audit_can_be_left_out(model_path: str) -> None:
    random = random_batch(num_groups=3, group_size=4, seed=8)
    batch = replace(random, samples=tuple(replace(s, staleness=i % 3) for i, s in enumerate(random.samples)))
    settings = {"lr": 1e-2, "num_epochs": 2, "max_tokens_per_micro_batch": 24}
    alone = rank_pool(1).run(all_steps, tiny_spec(model_path, zero_stage=2, **settings), batch)[0]
    for zero_stage in (2, 3):
        for reports in rank_pool(2).run(all_steps, tiny_spec(model_path, zero_stage=zero_stage, **settings), batch):
            for report, expected in zip(reports, alone, strict=True):
                assert report.metrics == pytest.approx(expected.metrics, rel=1e-3, abs=1e-6)
    for report in alone:
        assert report.metrics["audit/softsign/eur"] == pytest.approx(report.metrics["gate/eur"], rel=1e-6)
        assert report.metrics["audit/clip/eur_staleness_2"] <= 1.0
        assert report.metrics["ratio/log_std_within"] > 0.0
    bare = rank_pool(2).run(all_steps, tiny_spec(model_path, zero_stage=2, audit=False, **settings), batch)[0]
    audited = {name for name in alone[0].metrics if name.startswith(("audit/", "ratio/log_std"))}
    for report, expected in zip(bare, alone, strict=True):
        assert set(report.metrics) == set(expected.metrics) - audited
    assert bare[-1].metrics["loss"] == pytest.approx(alone[-1].metrics["loss"], rel=1e-3)


def test_learning_rate_falls_linearly_over_all_steps_of_the_run(model_path: str) -> None:
    spec = tiny_spec(model_path, zero_stage=0, num_minibatches=2, num_epochs=2, lr=8e-3)
    rates = rank_pool(1).run(learning_rates, spec, random_batch(num_groups=2, group_size=4, seed=5))[0]
    assert rates == pytest.approx([8e-3 * (1 - step / 16) for step in range(16)])


def learning_rates(join: dict[str, Any], spec: LearnerSpec, batch: TrainBatch) -> list[float]:
    from learner.worker import LearnerWorker

    worker = LearnerWorker(spec, **join)
    rates = []
    for iteration in range(spec.num_iterations):
        worker.load(batch, iteration)
        for index in range(spec.num_steps):
            rates.append(worker.step(index).lr)
            assert {group["lr"] for group in worker.engine.basic_optimizer.param_groups} == {rates[-1]}
    worker.engine.destroy()
    return rates
