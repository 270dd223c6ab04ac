"""The learner on real DeepSpeed and Ray.

It resumes bit for bit, nothing non-finite reaches a weight, one failing rank ends the call on all.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from learner_ranks import all_steps, random_batch, rank_pool, save_tiny_model, tiny_spec
from peft import PeftModel
from ray.util.placement_group import PlacementGroup, placement_group
from sampled import prompt_length
from transformers import AutoModelForCausalLM, AutoTokenizer

from configs.lora import LoraConfig
from configs.objective import ObjectiveConfig
from learner.batches.packing import split_minibatches
from learner.contract import StepReport, TrainBatch, TrainSample
from learner.group import LearnerError, LearnerGroup
from learner.spec import LearnerSpec
from rollout.contract import SampledTokens

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

Local = list[torch.Tensor]  # every tensor of weights and optimizer state that a rank holds


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def either_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("model"), tied=request.param)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("model"), tied=True)


@pytest.mark.parametrize("rank", [0, 2], ids=["whole", "lora"])
@pytest.mark.parametrize(("num_ranks", "zero_stage"), [(1, 0), (1, 2), (2, 2), (2, 3)])
def test_a_restored_learner_continues_bit_for_bit(
    either_model: str, tmp_path: Path, num_ranks: int, zero_stage: int, rank: int
) -> None:
    lora = LoraConfig(rank=rank)
    spec = tiny_spec(either_model, zero_stage=zero_stage, max_tokens_per_micro_batch=24, weight_decay=0.1, lora=lora)
    batches = [random_batch(num_groups=2, group_size=4, seed=seed) for seed in (1, 2)]
    for undisturbed, restored in rank_pool(num_ranks).run(save_and_continue, spec, batches, str(tmp_path)):
        assert restored[0] == undisturbed[0]
        assert len(restored[1]) == len(undisturbed[1])
        assert all(torch.equal(a, b) for a, b in zip(restored[1], undisturbed[1], strict=True))


def save_and_continue(
    join: dict[str, Any], spec: LearnerSpec, batches: list[TrainBatch], folder: str
) -> list[tuple[list[StepReport], Local]]:
    """In a rank: two iterations with a save between them, then the second again in a new worker that restores."""
    from learner.worker import LearnerWorker

    results = []
    worker = LearnerWorker(spec, **join)
    worker.load(batches[0], 0)
    for index in range(spec.num_steps):
        worker.step(index)
    worker.save(folder)
    for attempt in ("undisturbed", "restored"):
        if attempt == "restored":
            worker.engine.destroy()
            worker = LearnerWorker(spec, **join)
            worker.restore(folder)
        worker.load(batches[1], 1)
        results.append(([worker.step(index) for index in range(spec.num_steps)], local_state(worker)))
    worker.engine.destroy()
    return results


def test_a_checkpoint_split_in_another_way_is_refused(model_path: str, tmp_path: Path) -> None:
    spec = tiny_spec(model_path, zero_stage=2)
    assert rank_pool(2).run(save_only, spec, str(tmp_path)) == [None, None]
    message = rank_pool(1).run(refusal_to_restore, spec, str(tmp_path))[0]
    assert message.startswith("learner.num_workers=1: the checkpoint")
    assert "written with learner.num_workers=2;" in message
    for message in rank_pool(2).run(refusal_to_restore, tiny_spec(model_path, zero_stage=3), str(tmp_path)):
        assert message.startswith("learner.zero_stage=3: the checkpoint")
        assert "written with learner.zero_stage=2;" in message


def save_only(join: dict[str, Any], spec: LearnerSpec, folder: str) -> None:
    from learner.worker import LearnerWorker

    worker = LearnerWorker(spec, **join)
    worker.save(folder)
    worker.engine.destroy()


def test_a_folder_that_a_rank_does_not_see_is_an_error_and_not_created(model_path: str, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    for messages in rank_pool(1).run(refusals_of_a_folder, tiny_spec(model_path), str(absent)):
        expected = (
            f"{absent}: no such folder on this node; set run_dir to a folder on a file system that all nodes share"
        )
        assert messages == [expected] * 3
    assert not absent.exists()


def refusals_of_a_folder(join: dict[str, Any], spec: LearnerSpec, folder: str) -> list[str]:
    from learner.worker import LearnerWorker

    worker = LearnerWorker(spec, **join)
    messages = []
    for method in (worker.save, worker.restore, worker.save_pretrained):
        try:
            method(folder)
        except FileNotFoundError as error:
            messages.append(str(error))
    worker.engine.destroy()
    return messages


def refusal_to_restore(join: dict[str, Any], spec: LearnerSpec, folder: str) -> str:
    from learner.worker import LearnerWorker

    worker = LearnerWorker(spec, **join)
    message = "no error"
    try:
        worker.restore(folder)
    except ValueError as error:
        message = str(error)
    worker.engine.destroy()
    return message


def local_state(worker: Any) -> Local:
    """Copies of this rank's shares of weights, AdamW moments and step counts."""
    shares = [getattr(parameter, "ds_tensor", parameter) for parameter in worker.policy.parameters()]
    states = worker.engine.basic_optimizer.state.values()
    moments = [torch.as_tensor(state[key]) for state in states for key in ("step", "exp_avg", "exp_avg_sq")]
    assert moments, "the optimizer has not stepped yet"
    return [tensor.detach().clone() for tensor in (*shares, *moments)]


@pytest.mark.parametrize("poison", ["loss", "gradient"])
@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_a_non_finite_step_is_refused_on_all_ranks_with_the_weights_as_they_were(
    model_path: str, zero_stage: int, poison: str
) -> None:
    spec = tiny_spec(model_path, zero_stage=zero_stage, num_minibatches=1)
    batch = random_batch(num_groups=2, group_size=4, seed=3)
    for message, unmoved in rank_pool(2).run(step_poisoned, spec, batch, poison):
        assert "is not finite" in message
        assert "iteration 2, step 0" in message
        assert ("loss" if poison == "loss" else "gradient norm") in message
        assert unmoved


def step_poisoned(join: dict[str, Any], spec: LearnerSpec, batch: TrainBatch, poison: str) -> tuple[str, bool]:
    """In a rank: a good step, then one with nan in an advantage or rank 1's gradient; the error, and if all stayed."""
    from learner.optimizer import NonFiniteError
    from learner.worker import LearnerWorker

    worker = LearnerWorker(spec, **join)
    worker.load(batch, 1)
    worker.step(0)
    if poison == "loss":
        poisoned = replace(batch.samples[0], advantage=float("nan"))
        batch = replace(batch, samples=(poisoned, *batch.samples[1:]))
    elif join["rank"] == 1:
        norm = worker.policy.model.base_model.norm.weight
        norm.register_hook(lambda gradient: gradient * float("nan"))
    worker.load(batch, 2)
    before = local_state(worker)
    message = "no error"
    try:
        worker.step(0)
    except NonFiniteError as error:
        message = str(error)
    after = local_state(worker)
    worker.engine.destroy()
    return message, all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


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


@pytest.fixture(scope="module")
def bundles() -> Iterator[PlacementGroup]:
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=settings)
    try:
        reserved = placement_group([{"CPU": 1}] * 2)
        assert reserved.wait(30)
        yield reserved
    finally:
        ray.shutdown()


def logprobs_of(model: Any, sample: TrainSample) -> np.ndarray:
    """[C] of a sample's completion tokens."""
    tokens, start = torch.from_numpy(sample.tokens.token_ids).long(), prompt_length(sample.tokens)
    with torch.no_grad():
        logits = model(tokens[None]).logits[0, start - 1 : -1]
    logprobs: np.ndarray = torch.log_softmax(logits, dim=-1).gather(-1, tokens[start:, None])[:, 0].numpy()
    return logprobs


def start_group(spec: LearnerSpec, bundles: PlacementGroup, start_timeout_s: float) -> LearnerGroup:
    return LearnerGroup(
        spec,
        placement_group=bundles,
        bundle_indices=[0, 1],
        cpus_per_rank=1,
        gpus_per_rank=0,
        start_timeout_s=start_timeout_s,
    )


@pytest.mark.parametrize("rank", [0, 2], ids=["whole", "lora"])
def test_a_group_trains_writes_a_loadable_model_and_ends_with_a_failing_rank(
    bundles: PlacementGroup, model_path: str, tmp_path: Path, rank: int
) -> None:
    batch = random_batch(num_groups=2, group_size=4, seed=6)
    spec = tiny_spec(model_path, zero_stage=3, num_epochs=2, lora=LoraConfig(rank=rank))
    group = start_group(spec, bundles, 200.0)
    group.load(batch, 0)
    reports = list(group.steps())
    parts = [part for epoch in (0, 1) for part in split_minibatches(8, 2, seed=spec.seed, iteration=0, epoch=epoch)]
    assert [len(part) for part in parts] == [4, 4, 4, 4]
    lengths = np.array([sample.tokens.num_sampled for sample in batch.samples])
    assert [report.num_tokens for report in reports] == [lengths[part].sum() for part in parts]

    group.save(str(tmp_path))
    assert (tmp_path / "learner.json").is_file()
    group.save_pretrained(str(tmp_path))
    assert AutoTokenizer.from_pretrained(tmp_path).vocab_size == AutoTokenizer.from_pretrained(model_path).vocab_size
    sample = batch.samples[0]
    found = group.score(sample.tokens.token_ids, prompt_length(sample.tokens))
    initial = AutoModelForCausalLM.from_pretrained(model_path)
    assert np.abs(found - logprobs_of(initial, sample)).max() > 1e-3
    np.testing.assert_allclose(found, logprobs_of(AutoModelForCausalLM.from_pretrained(tmp_path), sample), atol=1e-5)
    if rank:
        adapted = PeftModel.from_pretrained(initial, str(tmp_path / "adapter"))
        np.testing.assert_allclose(found, logprobs_of(adapted, sample), atol=1e-5)
    assert group.apply(thread_count) == [1, 1]

    started = time.monotonic()
    with pytest.raises(LearnerError, match=r"fail_on_rank_1: learner rank 1: ValueError: made to fail"):
        group.apply(fail_on_rank_1)
    assert time.monotonic() - started < 30, "rank 0 waits in a collective that nobody will complete"
    with pytest.raises(LearnerError, match="shut down"):
        group.score(sample.tokens.token_ids, prompt_length(sample.tokens))


def thread_count(worker: Any) -> int:
    return torch.get_num_threads()


def fail_on_rank_1(worker: Any) -> None:
    if worker.rank == 1:
        raise ValueError("made to fail")
    torch.distributed.barrier()


def test_a_rank_that_fails_while_it_scores_ahead_is_named_when_the_batch_is_loaded(
    bundles: PlacementGroup, model_path: str
) -> None:
    batch = random_batch(num_groups=2, group_size=4, seed=10)
    first_group = TrainBatch(samples=batch.samples[:4])
    group = start_group(tiny_spec(model_path, zero_stage=2, old_logprobs="recompute"), bundles, 200.0)
    assert not group.is_scoring
    group.score_ahead(first_group)
    group.load(batch, 0)
    assert not group.is_scoring
    for rank in group.status():
        assert rank.scored_ahead_share == 0.5
        assert [span.name for span in rank.spans] == ["score", "load"]

    group.apply(make_scoring_fail_on_rank_1)
    group.score_ahead(first_group)
    started = time.monotonic()
    with pytest.raises(LearnerError, match=r"score_ahead: learner rank 1: ValueError: made to fail"):
        group.load(batch, 1)
    assert time.monotonic() - started < 30, "rank 0 waits in a collective that nobody will complete"


def make_scoring_fail_on_rank_1(worker: Any) -> None:
    def fail(part: TrainBatch) -> None:
        raise ValueError("made to fail")

    if worker.rank == 1:
        worker.score_ahead = fail


def test_a_save_that_did_not_reach_the_drivers_folder_names_the_rank(
    bundles: PlacementGroup, model_path: str, tmp_path: Path
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    group = start_group(tiny_spec(model_path, zero_stage=2), bundles, 200.0)
    group.apply(save_into_another_folder_on_rank_1, str(elsewhere))
    with pytest.raises(LearnerError, match=rf"save: learner rank 1 wrote to another {here}; set run_dir to a folder"):
        group.save(str(here))
    with pytest.raises(LearnerError, match="shut down"):
        group.status()


def save_into_another_folder_on_rank_1(worker: Any, folder: str) -> None:
    if worker.rank == 1:
        save = worker.save
        worker.save = lambda path: save(folder)


def test_ranks_that_do_not_answer_in_time_are_named(bundles: PlacementGroup, model_path: str) -> None:
    with pytest.raises(LearnerError, match=r"learner rank 0.* did not answer within"):
        start_group(tiny_spec(model_path), bundles, 0.2)
