"""LearnerGroup on real Ray: it trains and writes what others load, and one failing rank ends the call on all."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learner_ranks import random_batch, save_tiny_model, tiny_spec
from peft import PeftModel
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from sampled import prompt_length
from transformers import AutoModelForCausalLM, AutoTokenizer

from configs.lora import LoraConfig
from configs.recovery import RecoveryConfig
from learner.batches.packing import split_minibatches
from learner.contract import TrainBatch, TrainSample
from learner.group import LearnerError, LearnerGroup
from learner.spec import LearnerSpec
from transfer.fingerprints import fingerprint_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

WAITING_S = 120.0  # less than the time-out of a call, on a busy machine


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("model"), tied=True)


@pytest.fixture(scope="module")
def bundles(shared_ray: None) -> Iterator[PlacementGroup]:
    reserved = placement_group([{"CPU": 1}] * 2)
    assert reserved.wait(120)
    yield reserved
    remove_placement_group(reserved)


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
        recovery=RecoveryConfig(health_every_s=0.5, health_timeout_s=WAITING_S),
    )


def end_by_a_failing_rank(group: LearnerGroup, _: Path) -> None:
    started = time.monotonic()
    with pytest.raises(LearnerError, match=r"fail on rank 1: learner rank 1: ValueError: made to fail"):
        group.apply(fail_on_rank_1)
    assert time.monotonic() - started < WAITING_S, "rank 0 waits in a collective that nobody will complete"


def end_by_a_save_that_did_not_reach_the_drivers_folder(group: LearnerGroup, folder: Path) -> None:
    here, elsewhere = folder / "here", folder / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    group.apply(save_into_another_folder_on_rank_1, str(elsewhere))
    group.save(str(here))
    with pytest.raises(LearnerError, match=rf"save: learner rank 1 wrote to another {here}; set run_dir to a folder"):
        group.await_saved()
    with pytest.raises(LearnerError, match="shut down"):
        group.status()


# Two ways to end, each for one of the two: a start of two ranks takes most of such a test.
@pytest.mark.parametrize(
    ("rank", "end"),
    [(0, end_by_a_failing_rank), (2, end_by_a_save_that_did_not_reach_the_drivers_folder)],
    ids=["whole-failing", "lora-elsewhere"],
)
def test_a_group_trains_writes_a_loadable_model_and_ends_with_a_failing_rank(
    bundles: PlacementGroup, model_path: str, tmp_path: Path, rank: int, end: Callable[[LearnerGroup, Path], None]
) -> None:
    batch = random_batch(num_groups=2, group_size=4, seed=6)
    spec = tiny_spec(model_path, zero_stage=3, num_epochs=2, lora=LoraConfig(rank=rank))
    group = start_group(spec, bundles, 400.0)
    group.load(batch, 0)
    reports = list(group.steps())
    parts = [part for epoch in (0, 1) for part in split_minibatches(8, 2, seed=spec.seed, iteration=0, epoch=epoch)]
    assert [len(part) for part in parts] == [4, 4, 4, 4]
    lengths = np.array([sample.tokens.num_sampled for sample in batch.samples])
    assert [report.num_tokens for report in reports] == [lengths[part].sum() for part in parts]

    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    group.save(str(checkpoint), pretrained=True)
    files = group.await_saved()
    assert not group.is_saving
    paths = [path for path in checkpoint.rglob("*") if path.is_file()]
    assert files == {path.relative_to(checkpoint).as_posix(): fingerprint_of(path) for path in paths}
    assert {"learner.json", "learner-0000-0000.safetensors", "learner-0001-0000.safetensors"} <= files.keys()
    group.save_pretrained(str(tmp_path))
    for path in (checkpoint / "pretrained").iterdir():
        assert path.is_dir() or path.read_bytes() == (tmp_path / path.name).read_bytes(), path
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

    end(group, tmp_path)
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
    group = start_group(tiny_spec(model_path, zero_stage=2, old_logprobs="recompute"), bundles, 400.0)
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
    with pytest.raises(LearnerError, match=r"score ahead: learner rank 1: ValueError: made to fail"):
        group.load(batch, 1)
    assert time.monotonic() - started < WAITING_S, "rank 0 waits in a collective that nobody will complete"


def make_scoring_fail_on_rank_1(worker: Any) -> None:
    def fail(part: TrainBatch) -> None:
        raise ValueError("made to fail")

    if worker.rank == 1:
        worker.score_ahead = fail


def save_into_another_folder_on_rank_1(worker: Any, folder: str) -> None:
    if worker.rank == 1:
        save = worker.save
        worker.save = lambda path, pretrained: save(folder, pretrained)


def test_ranks_that_do_not_answer_in_time_are_named(bundles: PlacementGroup, model_path: str) -> None:
    with pytest.raises(LearnerError, match=r"learner rank 0.* did not answer within"):
        start_group(tiny_spec(model_path), bundles, 0.2)
