"""The audit of a step, from micro-batches with filler and masked tokens: the own gate's EUR is the journal's."""

import numpy as np
import pytest
import torch
from sampled import one_turn

from configs.objective import ObjectiveConfig
from gates import GATES, Gate, get_gate
from gates.audit import audited_gates
from gates.loss import GateLoss, reference_loss
from learner.batches.packing import pack_minibatch
from learner.contract import MicroBatch, TrainBatch, TrainSample
from learner.loss.audit import StepAudit, step_tokens
from learner.loss.objective import gated_objective
from learner.loss.run_objective import LossInputs, ObjectiveLoss, RunObjective
from learner.loss.statistics import StepStatistics

NUM_GROUPS = 4


def make_batch(*, max_staleness: int) -> TrainBatch:
    rng = np.random.default_rng(0)
    samples = []
    for index in range(24):
        length = int(rng.integers(1, 12))
        samples.append(
            TrainSample(
                position=index % NUM_GROUPS,
                tokens=one_turn(
                    rng.integers(3, 20, size=3),
                    rng.integers(3, 20, size=length),
                    logprobs=rng.normal(scale=0.2, size=length).astype(np.float32) - 1.0,
                ),
                advantage=float(rng.normal()),
                staleness=index % (max_staleness + 1),
                finished=True,
            )
        )
    return TrainBatch(samples=tuple(samples))


def pack(batch: TrainBatch, *, num_ranks: int) -> list[list[MicroBatch]]:
    return pack_minibatch(
        batch,
        np.arange(len(batch.samples)),
        aggregation="sequence_mean",
        max_new_tokens=16,
        max_tokens=40,
        num_ranks=num_ranks,
    )


def build(name: str) -> Gate:
    if name == "clip":
        return get_gate(name, epsilon_low=0.1, epsilon_high=0.1)
    return get_gate(name, tau_pos=6.0, tau_neg=9.0, **({"p": 2.5} if name == "power" else {}))


def objective_of(row: MicroBatch, name: str) -> GateLoss:
    return gated_objective(
        logprobs=torch.full((len(row.targets),), -1.0),
        old_logprobs=torch.from_numpy(row.rollout_logprobs),
        advantages=torch.from_numpy(row.advantages),
        loss_weights=torch.from_numpy(row.loss_weights),
        gate=build(name),
    )


def audit_rows(batch: TrainBatch, rows: list[MicroBatch], name: str) -> StepAudit:
    outs = [objective_loss(objective_of(row, name)) for row in rows]
    return StepAudit(audited_gates(build(name)), batch=batch, tokens=step_tokens(batch, rows, outs))


def objective_loss(out: GateLoss) -> ObjectiveLoss:
    return ObjectiveLoss(loss=out.loss, gate=out.metrics, token_log_ratio=out.metrics.log_ratio, token_means={})


@pytest.mark.parametrize("name", GATES)
def test_the_own_gate_is_told_alike_by_audit_and_statistics(name: str) -> None:
    batch = make_batch(max_staleness=0)
    (rows,) = pack(batch, num_ranks=1)
    statistics = StepStatistics(num_groups=NUM_GROUPS)
    for row in rows:
        out, tokens = objective_of(row, name), len(row.targets)
        statistics.add(
            out.metrics,
            group_index=torch.from_numpy(row.group_index),
            advantages=torch.from_numpy(row.advantages),
            loss=out.loss,
            entropy=torch.zeros(tokens),
            mismatch_log_ratio=torch.zeros(tokens),
            same_weights=torch.zeros(tokens, dtype=torch.bool),
        )
    expected, found = statistics.summarize(), audit_rows(batch, rows, name).summarize()
    for suffix in ("", "_pos", "_neg"):
        assert found[f"audit/{name}/eur{suffix}"] == pytest.approx(expected[f"gate/eur{suffix}"], rel=1e-6)
    assert found[f"audit/{name}/ess"] == pytest.approx(expected["gate/weight_ess"], rel=1e-6)


def test_ranks_with_filler_add_up_to_one() -> None:
    batch = make_batch(max_staleness=2)
    (alone,) = pack(batch, num_ranks=1)
    expected = audit_rows(batch, alone, "softsign").summarize()
    first, *others = (audit_rows(batch, rows, "softsign") for rows in pack(batch, num_ranks=3))
    for other in others:
        first.sums += other.sums  # what an all-reduce does
    assert first.summarize() == pytest.approx(expected, rel=1e-6)  # float32 slopes
    assert "audit/erf/eur_staleness_2" in expected


def test_the_spread_of_log_ratios_is_that_of_tokens_where_the_gate_sees_sequences() -> None:
    batch = make_batch(max_staleness=0)
    (rows,) = pack(batch, num_ranks=1)
    expected = audit_rows(batch, rows, "softsign").summarize()
    objective = RunObjective(ObjectiveConfig(ratio="sequence"), loss_function=reference_loss)
    outs = [objective(inputs_of(row), build("softsign")) for row in rows]
    found = StepAudit(audited_gates(build("softsign")), batch=batch, tokens=step_tokens(batch, rows, outs)).summarize()
    for name in ("ratio/log_std_within", "ratio/log_std_between"):
        assert found[name] == pytest.approx(expected[name], rel=1e-6)
    assert found["audit/softsign/eur"] > expected["audit/softsign/eur"] + 0.05, (
        "means lie nearer to 1 than their tokens"
    )


def inputs_of(row: MicroBatch) -> LossInputs:
    logprobs = torch.full((len(row.targets),), -1.0)
    return LossInputs(
        logprobs=logprobs,
        entropy=torch.zeros_like(logprobs),
        old_logprobs=torch.from_numpy(row.rollout_logprobs),
        rollout_logprobs=torch.from_numpy(row.rollout_logprobs),
        reference_logprobs=None,
        advantages=torch.from_numpy(row.advantages),
        loss_weights=torch.from_numpy(row.loss_weights),
        sequence_index=torch.from_numpy(row.sequence_index),
    )
