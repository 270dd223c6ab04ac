"""Every option of the objective on real DeepSpeed ranks: one gradient (to 1e-5), however many ranks and shards.

The reference is plain torch in float64, one unpacked sequence at a time, written from the equations; it takes the
weights that the learner had when the batch arrived and before the step, and the model that the run started from.
"""

import functools
import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from learner_ranks import all_steps, random_batch, rank_pool, save_tiny_model, tiny_spec
from sampled import prompt_length
from transformers import Qwen2ForCausalLM

from configs.objective import ObjectiveConfig
from learner.contract import StepReport, TrainBatch
from learner.spec import LearnerSpec

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

RELATIVE_TOLERANCE = 1e-5
TAU_POS, TAU_NEG = 10.0, 12.0
NUM_TRUNCATED = 3  # of 9 completions
MAX_NEW_TOKENS = 8
Arrays = dict[str, np.ndarray]
ALL = {"ratio": "sequence", "kl_coef": 0.3, "entropy_coef": 0.2, "overlong": "mask", "correction": "tis"}
OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {},
    "sequence": {"ratio": "sequence"},
    "kl-k1": {"kl_coef": 0.3, "kl_estimator": "k1"},
    "kl-k2": {"kl_coef": 3.0, "kl_estimator": "k2"},
    "kl-k3": {"kl_coef": 3.0, "kl_estimator": "k3"},
    "entropy": {"entropy_coef": 0.2},
    "mask": {"overlong": "mask"},
    "tis": {"correction": "tis", "correction_cap": 1.3},
    "mis": {"correction": "mis", "correction_cap": 1.3},
    "all": ALL,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    num_ranks: int
    zero_stage: int
    max_tokens: int = 24  # a micro-batch; sequences have 4-13 tokens
    aggregation: str = "sequence_mean"
    reverse: bool = False

    def __str__(self) -> str:
        reversed_ = "-reversed" * self.reverse
        return f"{self.num_ranks}ranks-zero{self.zero_stage}-{self.max_tokens}tokens-{self.aggregation}{reversed_}"


CASES = [
    Case(num_ranks=1, zero_stage=0, max_tokens=512, aggregation="token_mean"),
    Case(num_ranks=1, zero_stage=2),
    Case(num_ranks=1, zero_stage=3, aggregation="constant_length"),
    Case(num_ranks=2, zero_stage=2, max_tokens=13, reverse=True),
    Case(num_ranks=2, zero_stage=3),
]

ACROSS_RANKS = [  # every aggregation is shared out over ranks too
    Case(num_ranks=2, zero_stage=2, max_tokens=13, aggregation="token_mean", reverse=True),
    Case(num_ranks=2, zero_stage=3, aggregation="constant_length"),
]
# No option and all of them at once, in every way to share out a batch; each alone in the one that cuts the most.
TOGETHER = ("paper", "all")
COMBINATIONS = [(option, case) for option in TOGETHER for case in CASES + ACROSS_RANKS] + [
    (option, Case(num_ranks=2, zero_stage=3)) for option in OPTIONS if option not in TOGETHER
]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Tensors of one measured step: weights when its batch arrived and before it, and its gradient before clipping."""

    at_load: Arrays
    before: Arrays
    gradients: Arrays
    report: StepReport


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("model"), tied=True)


@functools.cache
def batches() -> list[TrainBatch]:
    """Two iterations; engines whose logprobs lie about the model's are not needed: the weights move in between."""
    made = []
    for seed in (1, 2):
        batch = random_batch(num_groups=3, group_size=3, seed=seed)
        samples = [replace(s, finished=place >= NUM_TRUNCATED) for place, s in enumerate(batch.samples)]
        made.append(replace(batch, samples=tuple(samples)))
    return made


@pytest.mark.parametrize(("option", "case"), COMBINATIONS, ids=str)
def test_gradient_equals_the_unpacked_reference(model_path: str, option: str, case: Case) -> None:
    objective = ObjectiveConfig(**OPTIONS[option])
    given = [replace(b, samples=b.samples[::-1]) if case.reverse else b for b in batches()]
    spec = tiny_spec(
        model_path,
        objective=objective,
        zero_stage=case.zero_stage,
        max_tokens_per_micro_batch=case.max_tokens,
        loss_aggregation=case.aggregation,
        old_logprobs="recompute",
        num_minibatches=1,
        num_epochs=2,
        lr=5e-3,
    )
    for seen in rank_pool(case.num_ranks).run(last_step, spec, given):
        expected, metrics = reference(model_path, seen, given[1], objective, case.aggregation)
        assert relative_difference(seen.gradients, expected) < RELATIVE_TOLERANCE
        for name, value in metrics.items():
            assert seen.report.metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-6), name
        optional = {name for name in seen.report.metrics if name.startswith(("objective/", "correction/"))}
        assert optional <= set(metrics)
        trained = [s for s in given[1].samples if s.finished or objective.overlong != "mask"]
        assert len(trained) == 9 - NUM_TRUNCATED * (objective.overlong == "mask")
        assert seen.report.num_tokens == sum(sample.tokens.num_sampled for sample in trained)


def last_step(join: dict[str, Any], spec: LearnerSpec, given: list[TrainBatch]) -> Seen:
    """In a rank: two iterations of two steps each; the last is measured, when nothing equals anything any more.

    The engine's logprobs of the second batch lie about the learner's at that time.
    """
    from deepspeed.utils import safe_get_full_grad

    from learner.model.policy import checkpoint_parameters
    from learner.model.zero import gathered, is_partitioned
    from learner.worker import LearnerWorker

    gradients: Arrays = {}

    class Recorder(LearnerWorker):
        def _optimizer_step(self, where: str) -> float:
            for name, parameter in checkpoint_parameters(self.policy):
                gradients[name] = safe_get_full_grad(parameter).double().numpy()
            return super()._optimizer_step(where)

    def weights_of(worker: LearnerWorker) -> Arrays:
        weights = {}
        for name, parameter in checkpoint_parameters(worker.policy):
            with gathered([parameter]):
                weights[name] = parameter.detach().double().numpy().copy()
        return weights

    worker = Recorder(spec, **join)
    assert (worker._reference is None) == (spec.objective.kl_coef == 0.0), "no reference is loaded without a KL term"
    if worker._reference is not None:
        parameters = list(worker._reference._score.__self__._engine.parameters())  # of the scorer whose method it is
        assert not any(parameter.requires_grad for parameter in parameters)
        assert [is_partitioned(parameter) for parameter in parameters] == [spec.learner.zero_stage == 3] * len(
            parameters
        )
    worker.load(given[0], 0)
    worker.step(0)
    worker.step(1)
    at_load = weights_of(worker)
    worker.load(given[1], 1)
    worker.step(0)
    before = weights_of(worker)
    report = worker.step(1)
    worker.engine.destroy()
    return Seen(at_load=at_load, before=before, gradients=gradients, report=report)


def model_of(path: str, weights: Arrays | None = None) -> Qwen2ForCausalLM:
    model = Qwen2ForCausalLM.from_pretrained(path, dtype=torch.float64)
    if weights is not None:
        model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, strict=False)
    return model


def reference(
    path: str, seen: Seen, batch: TrainBatch, objective: ObjectiveConfig, aggregation: str
) -> tuple[Arrays, dict[str, float]]:
    """(gradient, metrics that the options add) of docs/objective.md."""
    initial, proximal, model = model_of(path), model_of(path, seen.at_load), model_of(path, seen.before)
    kept = [sample for sample in batch.samples if sample.finished or objective.overlong != "mask"]
    total_length = sum(sample.tokens.num_sampled for sample in kept)
    loss = torch.zeros((), dtype=torch.float64)
    kls: list[torch.Tensor] = []
    factors: list[torch.Tensor] = []
    outsides: list[torch.Tensor] = []
    for sample in kept:
        tokens, start = torch.from_numpy(sample.tokens.token_ids).long(), prompt_length(sample.tokens)
        length = sample.tokens.num_sampled

        def log_softmax(of: Qwen2ForCausalLM, tokens: torch.Tensor = tokens, start: int = start) -> Any:
            return torch.log_softmax(of(tokens[None]).logits[0, start - 1 : -1], dim=-1)

        def chosen(table: torch.Tensor, tokens: torch.Tensor = tokens, start: int = start) -> Any:
            return table.gather(-1, tokens[start:, None])[:, 0]

        table = log_softmax(model)
        logprobs = chosen(table)
        with torch.no_grad():
            old, of_initial = chosen(log_softmax(proximal)), chosen(log_softmax(initial))
        log_ratio = logprobs - old
        ratio = torch.exp(log_ratio.mean().expand(length) if objective.ratio == "sequence" else log_ratio)
        tau = TAU_POS if sample.advantage > 0 else TAU_NEG
        value = 1.0 + (ratio - 1.0) / torch.sqrt(1.0 + tau**2 * (ratio - 1.0) ** 2)
        weight = torch.exp(old - torch.from_numpy(sample.tokens.rollout_logprobs).double())
        cap = objective.correction_cap
        outside = weight > cap
        if objective.correction == "mis":
            outside |= weight < 1 / cap
        factor = {"none": torch.ones_like(weight), "tis": weight.clamp(max=cap), "mis": weight * ~outside}
        x = logprobs - of_initial
        kl = {"k1": x, "k2": x**2 / 2, "k3": torch.exp(-x) - 1 + x}[objective.kl_estimator]
        entropy = -(table.exp() * table).sum(-1)
        gained = factor[objective.correction] * value * sample.advantage
        gained = gained - objective.kl_coef * kl + objective.entropy_coef * entropy
        scale = {
            "sequence_mean": 1 / (len(kept) * length),
            "token_mean": 1 / total_length,
            "constant_length": 1 / (len(kept) * MAX_NEW_TOKENS),
        }
        loss = loss - scale[aggregation] * gained.sum()
        kls.append(kl.detach())
        factors.append(factor[objective.correction])
        outsides.append(outside.double())
    loss.backward()
    metrics = {"loss": loss.item()}
    if objective.kl_coef:
        metrics["objective/kl"] = torch.cat(kls).mean().item()
    if objective.correction != "none":
        name = {"tis": "clipped", "mis": "masked"}[objective.correction]
        metrics["correction/weight_mean"] = torch.cat(factors).mean().item()
        metrics[f"correction/{name}_share"] = torch.cat(outsides).mean().item()
    return {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}, metrics


def flat(arrays: Arrays) -> torch.Tensor:
    return torch.cat([torch.from_numpy(arrays[name]).flatten() for name in sorted(arrays)])


def relative_difference(found: Arrays, expected: Arrays) -> float:
    assert found.keys() == expected.keys()
    return ((flat(found) - flat(expected)).norm() / flat(expected).norm()).item()


@pytest.mark.parametrize(("num_ranks", "zero_stage"), [(1, 0), (2, 2), (2, 3)])
def test_a_restored_learner_keeps_the_initial_model_as_reference(
    model_path: str, tmp_path: Any, num_ranks: int, zero_stage: int
) -> None:
    spec = tiny_spec(
        model_path,
        objective=ObjectiveConfig(**ALL),
        zero_stage=zero_stage,
        max_tokens_per_micro_batch=24,
        old_logprobs="recompute",
        lr=5e-3,
    )
    for undisturbed, restored in rank_pool(num_ranks).run(save_and_continue, spec, batches(), str(tmp_path)):
        assert restored == undisturbed
        assert all(report.metrics["objective/kl"] > 1e-4 for report in restored), "the policy has left the reference"


def save_and_continue(
    join: dict[str, Any], spec: LearnerSpec, given: list[TrainBatch], folder: str
) -> list[list[StepReport]]:
    """In a rank: two iterations with a save between them, then the second again in a new worker that restores."""
    from learner.worker import LearnerWorker

    worker = LearnerWorker(spec, **join)
    worker.load(given[0], 0)
    for index in range(spec.num_steps):
        worker.step(index)
    worker.save(folder, pretrained=False)
    worker.await_saved()
    results = []
    for attempt in ("undisturbed", "restored"):
        if attempt == "restored":
            worker.engine.destroy()
            worker = LearnerWorker(spec, **join)
            worker.restore(folder)
        worker.load(given[1], 1)
        results.append([worker.step(index) for index in range(spec.num_steps)])
    worker.engine.destroy()
    return results


def test_an_iteration_of_truncated_completions_only_moves_nothing_and_ends_well(model_path: str) -> None:
    batch = batches()[0]
    truncated = replace(batch, samples=tuple(replace(sample, finished=False) for sample in batch.samples))
    spec = tiny_spec(model_path, objective=ObjectiveConfig(**ALL), zero_stage=3, old_logprobs="recompute")
    for report in itertools.chain(*rank_pool(2).run(all_steps, spec, truncated)):
        assert (report.num_tokens, report.grad_norm) == (0, 0.0)
        assert set(report.metrics) == {"gate/tau_pos", "gate/tau_neg"}
