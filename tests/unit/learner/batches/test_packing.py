"""Minibatches, loss weights and packed rows: what every packing must keep, and that the gradient does not notice it."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampled import one_turn, several_turns
from tiny_language_model import TinyModel
from torch import Tensor

from gates import GATES, Gate, get_gate
from learner.batches.packing import Aggregation, pack_all, pack_minibatch, split_minibatches, token_loss_weights
from learner.batches.rows import BY_TOKENS, RowCost
from learner.contract import MicroBatch, TrainBatch, TrainSample
from learner.loss.objective import gated_objective
from learner.model.logprobs import token_logprobs

PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)
VOCABULARY, MAX_LENGTH = 11, 24
ROW_COSTS = [BY_TOKENS, RowCost(pair_cost=0.02), RowCost(pair_cost=0.5)]
shapes = st.lists(st.tuples(st.integers(1, 8), st.integers(1, 16)), min_size=1, max_size=20)


def make_batch(lengths: list[tuple[int, int]], *, seed: int = 0) -> TrainBatch:
    """Samples of the given (prompt, completion) lengths, four a group."""
    rng = np.random.default_rng(seed)
    samples = tuple(
        TrainSample(
            position=place // 4,
            tokens=one_turn(
                rng.integers(VOCABULARY, size=prompt),
                rng.integers(VOCABULARY, size=completion),
                logprobs=-rng.random(completion).astype(np.float32) - 2.0,
            ),
            advantage=float(rng.normal()),
            staleness=0,
            finished=True,
        )
        for place, (prompt, completion) in enumerate(lengths)
    )
    return TrainBatch(samples=samples)


def turns_batch() -> TrainBatch:
    """Sequences of one to four turns, two a group; some end with tokens that were not sampled."""
    rng = np.random.default_rng(3)
    masks = [[0, *rng.integers(2, size=int(rng.integers(3, 22))), 1, *[0] * int(rng.integers(2))] for _ in range(16)]
    masks[:2] = [[0, 0, 1, 1, 0, 0, 1, 0, 1], [0, 1, 1, 1]]
    (sample,) = make_batch([(1, 1)]).samples
    return TrainBatch(
        samples=tuple(
            replace(sample, position=index // 2, tokens=several_turns(mask, seed=index), advantage=float(rng.normal()))
            for index, mask in enumerate(masks)
        )
    )


@PROPERTY
@given(num_samples=st.integers(1, 60), data=st.data())
def test_minibatches_partition_the_samples_evenly(num_samples: int, data: st.DataObject) -> None:
    num_minibatches = data.draw(st.integers(1, num_samples))
    parts = split_minibatches(num_samples, num_minibatches, seed=5, iteration=2, epoch=0)
    assert len(parts) == num_minibatches
    assert sorted(np.concatenate(parts).tolist()) == list(range(num_samples))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all((np.diff(part) > 0).all() for part in parts)


def test_minibatches_depend_on_seed_iteration_and_epoch_only() -> None:
    def draw(**changes: int) -> list[list[int]]:
        arguments = {"seed": 1, "iteration": 4, "epoch": 0} | changes
        return [part.tolist() for part in split_minibatches(32, 4, **arguments)]

    assert draw() == draw()
    assert all(draw() != draw(**change) for change in ({"seed": 2}, {"iteration": 5}, {"epoch": 1}))


@pytest.mark.parametrize("num_minibatches", [0, 4])
def test_more_minibatches_than_samples_are_refused(num_minibatches: int) -> None:
    with pytest.raises(ValueError, match=rf"num_minibatches={num_minibatches}: must lie in 1..3"):
        split_minibatches(3, num_minibatches, seed=0, iteration=0, epoch=0)


def test_loss_weights_of_each_aggregation() -> None:
    lengths = np.array([1, 4, 5])
    expected = {
        "sequence_mean": [1 / 3, 1 / 12, 1 / 15],
        "token_mean": [1 / 10] * 3,
        "constant_length": [1 / 24] * 3,
    }
    for aggregation, weights in expected.items():
        computed = token_loss_weights(lengths, aggregation=aggregation, max_new_tokens=8)  # type: ignore[arg-type]
        assert computed.dtype == np.float64
        assert computed.tolist() == pytest.approx(weights)


def test_loss_weights_refuse_what_has_no_mean() -> None:
    for lengths in ([], [3, 0]):
        with pytest.raises(ValueError, match="completion_lengths"):
            token_loss_weights(np.array(lengths), aggregation="sequence_mean", max_new_tokens=8)
    with pytest.raises(ValueError, match="aggregation='mean': must be sequence_mean"):
        token_loss_weights(np.array([1]), aggregation="mean", max_new_tokens=8)  # type: ignore[arg-type]


@PROPERTY
@given(lengths=shapes, slack=st.integers(0, 60), num_ranks=st.integers(1, 4), row_cost=st.sampled_from(ROW_COSTS))
def test_each_sequence_once_within_the_budget_and_ranks_in_step(
    lengths: list[tuple[int, int]], slack: int, num_ranks: int, row_cost: RowCost
) -> None:
    batch = make_batch(lengths)
    max_tokens = max(map(sum, lengths)) + slack
    ranks = pack_minibatch(
        batch,
        np.arange(len(lengths)),
        aggregation="sequence_mean",
        max_new_tokens=16,
        max_tokens=max_tokens,
        num_ranks=num_ranks,
        row_cost=row_cost,
    )
    assert len(ranks) == num_ranks
    assert len({len(rank) for rank in ranks}) == 1
    micro_batches = [micro_batch for rank in ranks for micro_batch in rank]
    assert all(len(micro_batch.token_ids) <= max_tokens for micro_batch in micro_batches)
    trained = [micro_batch for micro_batch in micro_batches if micro_batch.loss_weights.any()]
    assert sorted(np.concatenate([m.sample_indices for m in trained]).tolist()) == list(range(len(lengths)))
    assert all((micro_batch.loss_weights > 0).all() for micro_batch in trained)
    for micro_batch in micro_batches:
        check_rows(micro_batch, batch, len(lengths))


def check_rows(micro_batch: MicroBatch, batch: TrainBatch, num_sequences: int) -> None:
    """Every array of a micro-batch against the samples it claims to hold."""
    start, token = 0, 0
    for place, index in enumerate(micro_batch.sample_indices):
        sample = batch.samples[index]
        length, num_tokens = len(sample.tokens.token_ids), sample.tokens.num_sampled
        sampled = [at for at in range(length) if sample.tokens.completion_mask[at]]
        row, tokens = slice(start, start + length), slice(token, token + num_tokens)
        assert micro_batch.sequence_lengths[place] == length
        assert micro_batch.token_ids[row].tolist() == sample.tokens.token_ids.tolist()
        assert micro_batch.position_ids[row].tolist() == list(range(length))
        assert micro_batch.targets[tokens].tolist() == sample.tokens.token_ids[sampled].tolist()
        assert (micro_batch.positions[tokens] + 1 - start).tolist() == sampled
        assert (micro_batch.sequence_index[tokens] == place).all()
        assert (micro_batch.group_index[tokens] == sample.position).all()
        assert micro_batch.rollout_logprobs[tokens].tolist() == sample.tokens.rollout_logprobs.tolist()
        assert (micro_batch.advantages[tokens] == np.float32(sample.advantage)).all()
        if micro_batch.loss_weights.any():
            assert micro_batch.loss_weights[tokens] == pytest.approx(1 / (num_sequences * num_tokens))
        start, token = start + length, token + num_tokens
    assert (start, token) == (len(micro_batch.token_ids), len(micro_batch.targets))
    dtypes = {f.name: getattr(micro_batch, f.name).dtype for f in fields(MicroBatch)}
    floats = {"rollout_logprobs", "advantages", "loss_weights"}
    assert dtypes == {name: np.dtype(np.float32 if name in floats else np.int64) for name in dtypes}


def test_rows_of_several_turns_train_what_the_mask_says() -> None:
    batch = turns_batch()
    for micro_batch in pack_minibatch(
        batch, np.arange(16), aggregation="sequence_mean", max_new_tokens=16, max_tokens=60, num_ranks=1
    )[0]:
        check_rows(micro_batch, batch, num_sequences=16)
    ((row,),) = pack_all(replace(batch, samples=batch.samples[:2]), max_tokens=60, num_ranks=1)
    assert row.positions.tolist() == [1, 2, 5, 7, 9, 10, 11]
    assert row.sequence_index.tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_a_loss_weight_is_that_of_the_sampled_tokens_of_all_turns() -> None:
    batch = turns_batch()  # 4 and 3 sampled tokens in the first two sequences
    for aggregation, expected in (("sequence_mean", [1 / 8] * 4 + [1 / 6] * 3), ("token_mean", [1 / 7] * 7)):
        ((row,),) = pack_minibatch(
            batch,
            np.array([0, 1]),
            aggregation=aggregation,  # type: ignore[arg-type]
            max_new_tokens=16,
            max_tokens=60,
            num_ranks=1,
        )
        assert row.loss_weights.tolist() == pytest.approx(expected)


def test_groups_are_numbered_in_the_order_in_which_they_come() -> None:
    batch = make_batch([(1, 1)] * 4)
    positions = (40, 17, 40, 99)
    samples = tuple(replace(s, position=at) for s, at in zip(batch.samples, positions, strict=True))
    batch = TrainBatch(samples=samples)
    assert (batch.num_groups, batch.group_index().tolist()) == (3, [0, 1, 0, 2])


def test_rows_are_few_and_even() -> None:
    batch = make_batch([(4, 12)] * 8 + [(4, 4)] * 16)  # 256 tokens
    for num_ranks, num_rows in ((1, 2), (2, 1), (4, 1)):
        ranks = pack_all(batch, max_tokens=128, num_ranks=num_ranks)
        assert [len(rank) for rank in ranks] == [num_rows] * num_ranks
        tokens = [len(micro_batch.token_ids) for rank in ranks for micro_batch in rank]
        assert max(tokens) - min(tokens) == 0


def test_a_tight_budget_never_needs_more_rows_than_first_fit_decreasing() -> None:
    batch = make_batch([(1, length - 1) for length in (7, 6, 5, 4, 4, 3, 3, 2, 2)])  # 36 tokens, 4 rows of exactly 9
    ranks = pack_all(batch, max_tokens=9, num_ranks=1)
    assert sorted(len(micro_batch.token_ids) for micro_batch in ranks[0]) == [9, 9, 9, 9]


def test_fewer_sequences_than_ranks_are_filled_with_the_shortest_at_weight_zero() -> None:
    batch = make_batch([(3, 9), (2, 2)])
    ranks = pack_minibatch(
        batch, np.array([0, 1]), aggregation="token_mean", max_new_tokens=16, max_tokens=32, num_ranks=3
    )
    fillers = [m for rank in ranks for m in rank if not m.loss_weights.any()]
    assert [len(rank) for rank in ranks] == [1, 1, 1]
    assert [filler.sample_indices.tolist() for filler in fillers] == [[1]]


def test_a_sequence_beyond_the_budget_is_refused_with_the_remedy() -> None:
    batch = make_batch([(2, 3), (8, 16)])
    with pytest.raises(ValueError, match=r"sample 1 has 24 tokens: .*=20; raise learner.max_tokens_per_micro_batch"):
        pack_all(batch, max_tokens=20, num_ranks=1)


def test_pack_all_holds_every_sample_with_weight_one() -> None:
    batch = make_batch([(2, 5)] * 9)
    ranks = pack_all(batch, max_tokens=21, num_ranks=2)
    held = [m for rank in ranks for m in rank if m.loss_weights.any()]
    assert sorted(np.concatenate([m.sample_indices for m in held]).tolist()) == list(range(9))
    assert all((m.loss_weights == 1).all() for m in held)


def backward_packed(model: TinyModel, micro_batch: MicroBatch, gate_name: str) -> float:
    hidden = model(
        torch.from_numpy(micro_batch.token_ids),
        torch.from_numpy(micro_batch.position_ids),
        micro_batch.sequence_lengths.tolist(),
    )
    positions, targets = torch.from_numpy(micro_batch.positions), torch.from_numpy(micro_batch.targets)
    logprobs, _ = token_logprobs(hidden[positions], targets, model.head, temperature=1.0, max_logits=77)
    loss = gated_objective(
        logprobs=logprobs,
        old_logprobs=torch.from_numpy(micro_batch.rollout_logprobs),
        advantages=torch.from_numpy(micro_batch.advantages),
        loss_weights=torch.from_numpy(micro_batch.loss_weights),
        gate=make_gate(gate_name),
    ).loss
    loss.backward()
    return loss.item()


def gradient_of(model: TinyModel) -> Tensor:
    gradients = [parameter.grad for parameter in model.parameters()]
    return torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])


def make_gate(name: str) -> Gate:
    if name == "clip":
        return get_gate(name, epsilon_low=0.2, epsilon_high=0.2)
    return get_gate(name, tau_pos=2, tau_neg=3, **({"p": 2.0} if name == "power" else {}))


def gradient_by_sequence(batch: TrainBatch, indices: list[int], gate_name: str) -> tuple[float, Tensor]:
    """Loss and gradient with one unpacked sequence at a time, sequence mean written out."""
    torch.manual_seed(0)
    model = TinyModel(vocabulary=VOCABULARY, max_length=MAX_LENGTH)
    total = torch.zeros(())
    for index in indices:
        sample = batch.samples[index]
        tokens = torch.from_numpy(sample.tokens.token_ids.astype(np.int64))
        log_softmax = torch.log_softmax(model.head(model(tokens, torch.arange(len(tokens)), [len(tokens)])), dim=-1)
        sampled = [at for at in range(len(tokens)) if sample.tokens.completion_mask[at]]
        logprobs = torch.stack([log_softmax[at - 1, tokens[at]] for at in sampled])
        ratio = torch.exp(logprobs - torch.from_numpy(sample.tokens.rollout_logprobs))
        positive = torch.full(ratio.shape, sample.advantage > 0)
        total = total - (make_gate(gate_name).value(ratio, positive) * sample.advantage).mean() / len(indices)
    total.backward()
    return total.item(), gradient_of(model)


@pytest.mark.parametrize("gate_name", GATES)
@pytest.mark.parametrize(("max_tokens", "num_ranks"), [(24, 1), (40, 1), (1000, 1), (24, 2), (64, 3), (1000, 13)])
@pytest.mark.parametrize("row_cost", ROW_COSTS)
def test_gradient_does_not_depend_on_packing(
    gate_name: str, max_tokens: int, num_ranks: int, row_cost: RowCost
) -> None:
    rng = np.random.default_rng(7)
    batch = make_batch([(int(rng.integers(1, 8)), int(rng.integers(1, 16))) for _ in range(16)])
    check_gradient(batch, gate_name, max_tokens=max_tokens, num_ranks=num_ranks, row_cost=row_cost)


@pytest.mark.parametrize(("max_tokens", "num_ranks"), [(24, 1), (1000, 1), (64, 3)])
def test_gradient_of_several_turns_does_not_depend_on_packing_either(max_tokens: int, num_ranks: int) -> None:
    check_gradient(turns_batch(), "softsign", max_tokens=max_tokens, num_ranks=num_ranks, row_cost=BY_TOKENS)


def check_gradient(batch: TrainBatch, gate_name: str, *, max_tokens: int, num_ranks: int, row_cost: RowCost) -> None:
    """Loss and gradient of packed rows against those of one sequence at a time."""
    indices = [0, 1, 3, 4, 6, 8, 9, 10, 11, 13, 15]
    expected_loss, expected_gradient = gradient_by_sequence(batch, indices, gate_name)

    torch.manual_seed(0)
    model = TinyModel(vocabulary=VOCABULARY, max_length=MAX_LENGTH)
    ranks = pack_minibatch(
        batch,
        np.array(indices),
        aggregation="sequence_mean",
        max_new_tokens=16,
        max_tokens=max_tokens,
        num_ranks=num_ranks,
        row_cost=row_cost,
    )
    loss = sum(backward_packed(model, micro_batch, gate_name) for rank in reversed(ranks) for micro_batch in rank)
    gradient = gradient_of(model)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert (gradient - expected_gradient).norm() <= 1e-5 * expected_gradient.norm()


@pytest.mark.parametrize("aggregation", ["token_mean", "constant_length"])
def test_other_aggregations_do_not_depend_on_packing_either(aggregation: Aggregation) -> None:
    batch = make_batch([(2, 1), (3, 16), (1, 7), (8, 4), (5, 5)])
    gradients = []
    for max_tokens, num_ranks in ((24, 1), (1000, 1), (24, 4)):
        torch.manual_seed(0)
        model = TinyModel(vocabulary=VOCABULARY, max_length=MAX_LENGTH)
        ranks = pack_minibatch(
            batch,
            np.arange(5),
            aggregation=aggregation,
            max_new_tokens=16,
            max_tokens=max_tokens,
            num_ranks=num_ranks,
        )
        for micro_batch in (micro_batch for rank in ranks for micro_batch in rank):
            backward_packed(model, micro_batch, "softsign")
        gradients.append(gradient_of(model))
    assert all((gradient - gradients[0]).norm() <= 1e-5 * gradients[0].norm() for gradient in gradients)
