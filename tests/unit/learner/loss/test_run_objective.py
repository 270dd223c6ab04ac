"""Every option of the objective, whole: packed micro-batches against one unpacked sequence at a time in float64.

Loss, gradient and metrics must not notice how sequences are split into micro-batches, ordered, packed or dealt to
ranks; the reference is written from the equations and shares nothing with the learner but the gate.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from sampled import one_turn, prompt_length
from tiny_language_model import TinyModel
from torch import Tensor

from configs.objective import ObjectiveConfig
from gates import GATES, Gate, get_gate
from gates.kernels import loss_function_for
from learner.batches.packing import Aggregation, pack_minibatch, trained_samples
from learner.contract import MicroBatch, TrainBatch, TrainSample
from learner.loss.run_objective import LossInputs, RunObjective
from learner.loss.statistics import StepStatistics
from learner.model.logprobs import token_logprobs

VOCABULARY, MAX_NEW_TOKENS, NUM_GROUPS = 11, 16, 4
TEMPERATURE = 0.9
OPTIONS: dict[str, dict[str, Any]] = {
    "paper": {},
    "sequence": {"ratio": "sequence"},
    "kl-k1": {"kl_coef": 0.3, "kl_estimator": "k1"},
    "kl-k2": {"kl_coef": 0.3, "kl_estimator": "k2"},
    "kl-k3": {"kl_coef": 0.3, "kl_estimator": "k3"},
    "entropy": {"entropy_coef": 0.2},
    "mask": {"overlong": "mask"},
    "tis": {"correction": "tis", "correction_cap": 1.3},
    "mis": {"correction": "mis", "correction_cap": 1.3},
    "all": {
        "ratio": "sequence",
        "kl_coef": 0.1,
        "entropy_coef": 0.1,
        "overlong": "mask",
        "correction": "mis",
        "correction_cap": 1.5,
    },
}
AGGREGATIONS: tuple[Aggregation, ...] = ("sequence_mean", "token_mean", "constant_length")
# max_tokens, num_ranks; every second one takes the samples in reverse, the last has fillers
PACKINGS = [(24, 1), (40, 1), (1000, 1), (24, 2), (64, 3), (1000, 19)]


def tiny_model(seed: int) -> TinyModel:
    torch.manual_seed(seed)
    return TinyModel(vocabulary=VOCABULARY, max_length=32)


@dataclass(frozen=True, kw_only=True)
class Data:
    """An iteration as the learner has loaded it."""

    batch: TrainBatch
    old_logprobs: list[np.ndarray]
    reference_logprobs: list[np.ndarray]

    def reordered(self) -> "Data":
        samples = self.batch.samples[::-1]
        return Data(
            batch=replace(self.batch, samples=samples),
            old_logprobs=self.old_logprobs[::-1],
            reference_logprobs=self.reference_logprobs[::-1],
        )


@pytest.fixture(scope="module")
def data() -> Data:
    """Logprobs about the model's: ratios near 1 for the old, further away for engine and reference."""
    rng, model = np.random.default_rng(7), tiny_model(0).double()
    samples, old, reference = [], [], []
    for place in range(16):
        prompt, completion = int(rng.integers(1, 8)), int(rng.integers(1, MAX_NEW_TOKENS + 1))
        token_ids = rng.integers(VOCABULARY, size=prompt + completion).astype(np.int32)
        logprobs, _ = dense(model, token_ids, prompt)
        current = logprobs.detach().numpy()
        old.append((current + rng.normal(scale=0.2, size=completion)).astype(np.float32))
        reference.append((current + rng.normal(scale=0.5, size=completion)).astype(np.float32))
        samples.append(
            TrainSample(
                position=place % NUM_GROUPS,
                tokens=one_turn(
                    token_ids[:prompt],
                    token_ids[prompt:],
                    logprobs=(old[-1] + rng.normal(scale=0.3, size=completion)).astype(np.float32),
                ),
                advantage=float(rng.normal()),
                staleness=0,
                finished=place % 5 != 2,
            )
        )
    batch = TrainBatch(samples=tuple(samples))
    return Data(batch=batch, old_logprobs=old, reference_logprobs=reference)


def dense(model: TinyModel, token_ids: np.ndarray, num_prompt: int) -> tuple[Tensor, Tensor]:
    """(logprobs, entropy) of one sequence's completion tokens, all logits at once."""
    tokens = torch.from_numpy(token_ids.astype(np.int64))
    logits = model.head(model(tokens, torch.arange(len(tokens)), [len(tokens)]))[num_prompt - 1 : -1]
    probabilities = torch.softmax(logits / TEMPERATURE, dim=-1)
    completion = tokens[num_prompt:]
    logprobs = torch.log(probabilities[torch.arange(len(completion)), completion])
    return logprobs, -(probabilities * torch.log(probabilities)).sum(-1)


def make_gate(name: str) -> Gate:
    if name == "clip":
        return get_gate(name, epsilon_low=0.1, epsilon_high=0.1)
    return get_gate(name, tau_pos=4.0, tau_neg=6.0, **({"p": 2.0} if name == "power" else {}))


def gradient_of(model: TinyModel) -> Tensor:
    return torch.cat(
        [parameter.grad.flatten().double() for parameter in model.parameters() if parameter.grad is not None]
    )


def by_hand(
    data: Data, config: ObjectiveConfig, aggregation: str, gate: Gate
) -> tuple[float, Tensor, dict[str, float]]:
    """(loss, gradient, metrics) from the equations of docs/objective.md."""
    model = tiny_model(0).double()
    kept = [i for i, sample in enumerate(data.batch.samples) if sample.finished or config.overlong != "mask"]
    lengths = [data.batch.samples[i].tokens.num_sampled for i in kept]
    total = torch.zeros((), dtype=torch.float64)
    ratios, kls, factors, limited = [], [], [], []
    for i in kept:
        sample = data.batch.samples[i]
        length = sample.tokens.num_sampled
        old, reference = (torch.from_numpy(c[i]).double() for c in (data.old_logprobs, data.reference_logprobs))
        logprobs, entropy = dense(model, sample.tokens.token_ids, prompt_length(sample.tokens))
        ratio = torch.exp(logprobs - old)
        if config.ratio == "sequence":
            ratio = (ratio.prod() ** (1.0 / length)).expand(length)  # GSPO: the geometric mean
        factor = torch.exp(old - torch.from_numpy(sample.tokens.rollout_logprobs).double())
        outside = torch.zeros(length, dtype=torch.bool)
        if config.correction == "tis":
            outside = factor > config.correction_cap
            factor = torch.minimum(factor, torch.tensor(config.correction_cap, dtype=torch.float64))
        elif config.correction == "mis":
            outside = (factor > config.correction_cap) | (factor < 1 / config.correction_cap)
            factor = torch.where(outside, 0.0, factor)
        else:
            factor = torch.ones(length, dtype=torch.float64)
        objective = factor * gate.value(ratio, torch.full((length,), sample.advantage > 0)) * sample.advantage
        r = torch.exp(reference) / torch.exp(logprobs)
        kl = {"k1": -torch.log(r), "k2": torch.log(r) ** 2 / 2, "k3": r - 1 - torch.log(r)}[config.kl_estimator]
        objective = objective - config.kl_coef * kl + config.entropy_coef * entropy
        weight = {
            "sequence_mean": 1 / (len(kept) * length),
            "token_mean": 1 / sum(lengths),
            "constant_length": 1 / (len(kept) * MAX_NEW_TOKENS),
        }[aggregation]
        total = total - weight * objective.sum()
        for column, values in zip((ratios, kls, factors, limited), (ratio, kl, factor, outside), strict=True):
            column.append(values.detach().double())
    total.backward()
    ratio, kl, factor, outside = (torch.cat(column) for column in (ratios, kls, factors, limited))
    metrics = {
        "loss": total.item(),
        "ratio/mean": ratio.mean().item(),
        "ratio/variance": ratio.var(correction=0).item(),
    }
    if config.kl_coef:
        metrics["objective/kl"] = kl.mean().item()
    if config.correction != "none":
        metrics["correction/weight_mean"] = factor.mean().item()
        name = {"tis": "clipped", "mis": "masked"}[config.correction]
        metrics[f"correction/{name}_share"] = outside.mean().item()
    return total.item(), gradient_of(model), metrics


def packed(
    data: Data, config: ObjectiveConfig, aggregation: Aggregation, gate: Gate, *, max_tokens: int, num_ranks: int
) -> tuple[float, Tensor, StepStatistics]:
    """The same through the learner's own parts."""
    model = tiny_model(0)
    objective = RunObjective(config, loss_function=loss_function_for(gate, kernel="auto", device=torch.device("cpu")))
    statistics = StepStatistics(num_groups=NUM_GROUPS, token_means=objective.token_means)
    indices = np.arange(len(data.batch.samples))
    ranks = pack_minibatch(
        data.batch,
        trained_samples(data.batch, indices, mask_truncated=config.overlong == "mask"),
        aggregation=aggregation,
        max_new_tokens=MAX_NEW_TOKENS,
        max_tokens=max_tokens,
        num_ranks=num_ranks,
    )
    total = 0.0
    for row in (row for rank in reversed(ranks) for row in rank):
        total += backward(model, objective, row, data, config, gate, statistics)
    return total, gradient_of(model), statistics


def backward(
    model: TinyModel,
    objective: RunObjective,
    row: MicroBatch,
    data: Data,
    config: ObjectiveConfig,
    gate: Gate,
    statistics: StepStatistics,
) -> float:
    tokens, places = torch.from_numpy(row.token_ids), torch.from_numpy(row.position_ids)
    hidden = model(tokens, places, row.sequence_lengths.tolist())[torch.from_numpy(row.positions)]
    logprobs, entropy = token_logprobs(
        hidden,
        torch.from_numpy(row.targets),
        model.head,
        temperature=TEMPERATURE,
        max_logits=7 * VOCABULARY,
        entropy_gradient=config.entropy_coef > 0,
    )
    inputs = LossInputs(
        logprobs=logprobs,
        entropy=entropy,
        old_logprobs=torch.from_numpy(np.concatenate([data.old_logprobs[i] for i in row.sample_indices])),
        rollout_logprobs=torch.from_numpy(row.rollout_logprobs),
        reference_logprobs=torch.from_numpy(np.concatenate([data.reference_logprobs[i] for i in row.sample_indices])),
        advantages=torch.from_numpy(row.advantages),
        loss_weights=torch.from_numpy(row.loss_weights),
        sequence_index=torch.from_numpy(row.sequence_index),
    )
    out = objective(inputs, gate)
    out.loss.backward()
    statistics.add(
        out.gate,
        group_index=torch.from_numpy(row.group_index),
        advantages=inputs.advantages,
        loss=out.loss,
        entropy=entropy,
        mismatch_log_ratio=logprobs.detach() - inputs.rollout_logprobs,
        same_weights=torch.zeros(len(logprobs), dtype=torch.bool),
        token_means=out.token_means,
    )
    return out.loss.item()


def check(data: Data, config: ObjectiveConfig, aggregation: Aggregation, gate: Gate, packings: list) -> None:
    expected_loss, expected_gradient, expected_metrics = by_hand(data, config, aggregation, gate)
    for place, (max_tokens, num_ranks) in enumerate(packings):
        given = data.reordered() if place % 2 else data
        loss, gradient, statistics = packed(
            given, config, aggregation, gate, max_tokens=max_tokens, num_ranks=num_ranks
        )
        assert loss == pytest.approx(expected_loss, rel=1e-5, abs=1e-6)
        assert (gradient - expected_gradient).norm() <= 1e-5 * expected_gradient.norm()
        metrics = statistics.summarize()
        for name, value in expected_metrics.items():
            assert metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
        optional = {name for name in metrics if name.startswith(("objective/", "correction/"))}
        assert optional <= set(expected_metrics), "a metric that does not apply is absent"


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("option", OPTIONS)
def test_no_option_notices_packing_order_or_ranks(data: Data, option: str, aggregation: Aggregation) -> None:
    check(data, ObjectiveConfig(**OPTIONS[option]), aggregation, make_gate("softsign"), PACKINGS)


@pytest.mark.parametrize("gate_name", GATES)
def test_all_options_at_once_with_every_gate(data: Data, gate_name: str) -> None:
    check(data, ObjectiveConfig(**OPTIONS["all"]), "sequence_mean", make_gate(gate_name), [(24, 2), (1000, 1)])


def test_options_differ(data: Data) -> None:
    """So that no test above holds because an option is without effect on these data."""
    gate = make_gate("softsign")
    gradients = [by_hand(data, ObjectiveConfig(**option), "token_mean", gate)[1] for option in OPTIONS.values()]
    for place, gradient in enumerate(gradients):
        for other in gradients[:place]:
            assert (gradient - other).norm() > 1e-2 * other.norm()


def test_a_minibatch_of_truncated_completions_only_is_a_filler_a_rank_without_gradient(data: Data) -> None:
    truncated = tuple(replace(sample, finished=False) for sample in data.batch.samples)
    masked = replace(data, batch=replace(data.batch, samples=truncated))
    config = ObjectiveConfig(**OPTIONS["all"])
    loss, gradient, statistics = packed(masked, config, "token_mean", make_gate("erf"), max_tokens=24, num_ranks=3)
    assert loss == 0.0
    assert torch.equal(gradient, torch.zeros_like(gradient))
    assert statistics.summarize() == {}
    assert statistics.num_tokens == 0


def test_trained_samples_are_the_finished_ones_where_the_others_are_masked(data: Data) -> None:
    indices = np.array([0, 2, 3, 7, 12, 15])
    assert trained_samples(data.batch, indices, mask_truncated=False).tolist() == indices.tolist()
    assert trained_samples(data.batch, indices, mask_truncated=True).tolist() == [0, 3, 15]
