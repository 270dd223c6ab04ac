"""The learner on real DeepSpeed: it resumes bit for bit, and nothing non-finite reaches a weight."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from learner_ranks import random_batch, rank_pool, save_tiny_model, tiny_spec

from configs.lora import LoraConfig
from learner.contract import StepReport, TrainBatch
from learner.spec import LearnerSpec

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

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
