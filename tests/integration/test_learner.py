"""The learner on real DeepSpeed: it resumes bit for bit in any layout, and nothing non-finite reaches a weight."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from learner_ranks import random_batch, rank_pool, save_tiny_model, tiny_spec
from safetensors.torch import load_file

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
    worker.save(folder, False)  # written while the undisturbed one goes on
    for attempt in ("undisturbed", "restored"):
        if attempt == "restored":
            assert worker.await_saved()
            worker.engine.destroy()
            worker = LearnerWorker(spec, **join)
            worker.restore(folder)
        worker.load(batches[1], 1)
        results.append(([worker.step(index) for index in range(spec.num_steps)], local_state(worker)))
    worker.engine.destroy()
    return results


@pytest.mark.parametrize("rank", [0, 1], ids=["whole", "lora"])
def test_another_number_of_ranks_stage_and_dtype_continue_bit_for_bit(tmp_path: Path, rank: int) -> None:
    model = save_tiny_model(tmp_path / "model", tied=True, intermediate_size=49)  # adapters of an odd size
    batches = [random_batch(num_groups=2, group_size=4, seed=seed) for seed in (1, 2)]
    layouts: list[tuple[int, dict[str, Any]]] = [
        (2, {"zero_stage": 3}),
        (1, {"zero_stage": 0}),
        (2, {"zero_stage": 2}),
        (1, {"zero_stage": 1}),
        (2, {"zero_stage": 3, "dtype": "bfloat16"}),
        (2, {"zero_stage": 3}),
    ]
    saved: list[dict[str, torch.Tensor]] = []
    steps: list[StepReport] = []
    for place, (num_ranks, settings) in enumerate(layouts):
        spec = tiny_spec(model, weight_decay=0.1, lora=LoraConfig(rank=rank), **settings)
        folders = [str(tmp_path / str(number)) for number in (place, place + 1)]
        if place == 0:
            Path(folders[0]).mkdir()
            rank_pool(num_ranks).run(train_and_save, spec, batches[0], folders[0])
            saved.append(whole_tensors(Path(folders[0])))
        Path(folders[1]).mkdir()
        steps.append(rank_pool(num_ranks).run(restore_save_and_step, spec, batches[1], *folders)[0])
        saved.append(whole_tensors(Path(folders[1])))
    assert {name.partition("/")[0] for name in saved[0]} == {"weight", "exp_avg", "exp_avg_sq"}
    for found in saved[1:]:
        assert found.keys() == saved[0].keys()
        assert all(torch.equal(found[name], saved[0][name]) for name in found)
    assert steps[-1] == steps[0]
    for (_, settings), step in zip(layouts, steps, strict=True):
        tolerance = 5e-2 if "dtype" in settings else 1e-5
        assert step.grad_norm == pytest.approx(steps[0].grad_norm, rel=tolerance)
        assert step.lr == steps[0].lr


def train_and_save(join: dict[str, Any], spec: LearnerSpec, batch: TrainBatch, folder: str) -> None:
    from learner.worker import LearnerWorker

    worker = LearnerWorker(spec, **join)
    worker.load(batch, 0)
    for index in range(spec.num_steps):
        worker.step(index)
    worker.save(folder, False)
    worker.await_saved()
    worker.engine.destroy()


def restore_save_and_step(
    join: dict[str, Any], spec: LearnerSpec, batch: TrainBatch, source: str, target: str
) -> StepReport:
    from learner.worker import LearnerWorker

    worker = LearnerWorker(spec, **join)
    worker.restore(source)
    worker.save(target, False)
    worker.await_saved()
    worker.load(batch, 1)
    report = worker.step(0)
    worker.engine.destroy()
    return report


def whole_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and moments of a checkpoint, flat and joined, by kind and name."""
    parts: dict[str, dict[int, torch.Tensor]] = {}
    for path in folder.glob("*.safetensors"):
        for key, tensor in load_file(path).items():
            kind, start, name = key.split("/", 2)
            parts.setdefault(f"{kind}/{name}", {})[int(start)] = tensor
    return {name: torch.cat([pieces[start] for start in sorted(pieces)]) for name, pieces in parts.items()}


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
    for method in (partial(worker.save, pretrained=True), worker.restore, worker.save_pretrained):
        try:
            method(folder)
        except FileNotFoundError as error:
            messages.append(str(error))
    worker.engine.destroy()
    return messages


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
