"""From the samples of an iteration to micro-batches: minibatches, loss weights, packed rows.

In: a TrainBatch and numbers. Out: numpy MicroBatches, a pure function of the arguments; which sequences share a row,
and which rank gets it, is rows.py's. Knows nothing of torch, models or ranks' communication. Loss weights are
fixed over the global minibatch, so that loss and gradient do not depend on how sequences are split, packed or spread.
"""

from typing import Literal

import numpy as np

from learner.batches.rows import BY_TOKENS, RowCost, deal_rows, fill_rows
from learner.contract import MicroBatch, TrainBatch

Aggregation = Literal["sequence_mean", "token_mean", "constant_length"]


def split_minibatches(
    num_samples: int, num_minibatches: int, *, seed: int, iteration: int, epoch: int
) -> list[np.ndarray]:
    """A permutation of 0..num_samples-1, seeded by (seed, iteration, epoch), cut into sorted parts.

    Their sizes differ by at most 1.
    """
    if not 1 <= num_minibatches <= num_samples:
        raise ValueError(f"num_minibatches={num_minibatches}: must lie in 1..{num_samples}, the number of samples")
    order = np.random.default_rng([seed, iteration, epoch]).permutation(num_samples)
    return [np.sort(part) for part in np.array_split(order, num_minibatches)]


def token_loss_weights(completion_lengths: np.ndarray, *, aggregation: Aggregation, max_new_tokens: int) -> np.ndarray:
    """Weight of each token of each of the N sequences of one global minibatch, [N] float64.

    sequence_mean 1 / (N |o_i|), the paper's eq. 2; token_mean 1 / sum |o_i|; constant_length 1 / (N max_new_tokens).
    """
    lengths = np.asarray(completion_lengths, dtype=np.float64)
    if len(lengths) == 0 or lengths.min() < 1:
        raise ValueError("completion_lengths: needs at least one sequence, and at least one completion token in each")
    match aggregation:
        case "sequence_mean":
            return 1.0 / (len(lengths) * lengths)
        case "token_mean":
            return np.full(len(lengths), 1.0 / lengths.sum())
        case "constant_length":
            return np.full(len(lengths), 1.0 / (len(lengths) * max_new_tokens))
    raise ValueError(f"aggregation={aggregation!r}: must be sequence_mean, token_mean or constant_length")


def trained_samples(batch: TrainBatch, indices: np.ndarray, *, mask_truncated: bool) -> np.ndarray:
    """The indices whose samples enter the loss: all, or only completions that were not cut off. May be empty."""
    if not mask_truncated:
        return indices
    return indices[[batch.samples[index].finished for index in indices]]


def pack_minibatch(
    batch: TrainBatch,
    indices: np.ndarray,
    *,
    aggregation: Aggregation,
    max_new_tokens: int,
    max_tokens: int,
    num_ranks: int,
    row_cost: RowCost = BY_TOKENS,
) -> list[list[MicroBatch]]:
    """The micro-batches of one optimizer step: one list a rank, each sequence of indices exactly once.

    All lists have the same length, and cost the ranks about the same by row_cost. A micro-batch holds at most
    max_tokens tokens (prompt + completion). Where there are fewer sequences than micro-batches, ranks are kept in step
    by fillers: the shortest sequence with loss weights 0. Empty indices give a filler a rank. Raises ValueError for a
    sequence longer than max_tokens.
    """
    if len(indices) == 0:
        shortest = min(range(len(batch.samples)), key=lambda index: len(batch.samples[index].tokens.token_ids))
        filler = _micro_batch(batch, np.array([shortest]), np.zeros(1), batch.group_index())
        return [[filler] for _ in range(num_ranks)]
    lengths = np.array([batch.samples[index].tokens.num_sampled for index in indices])
    weights = token_loss_weights(lengths, aggregation=aggregation, max_new_tokens=max_new_tokens)
    return _pack(batch, indices, weights, max_tokens=max_tokens, num_ranks=num_ranks, row_cost=row_cost)


def pack_all(
    batch: TrainBatch, *, max_tokens: int, num_ranks: int, row_cost: RowCost = BY_TOKENS
) -> list[list[MicroBatch]]:
    """All sequences packed like a minibatch, for passes without a loss: loss weights are 1, and 0 in fillers."""
    indices = np.arange(len(batch.samples))
    return _pack(batch, indices, np.ones(len(indices)), max_tokens=max_tokens, num_ranks=num_ranks, row_cost=row_cost)


def _pack(
    batch: TrainBatch,
    indices: np.ndarray,
    weights: np.ndarray,
    *,
    max_tokens: int,
    num_ranks: int,
    row_cost: RowCost,
) -> list[list[MicroBatch]]:
    lengths = np.array([len(batch.samples[index].tokens.token_ids) for index in indices])
    if lengths.max() > max_tokens:
        longest = int(indices[lengths.argmax()])
        raise ValueError(
            f"sample {longest} has {lengths.max()} tokens: more than max_tokens_per_micro_batch={max_tokens}; "
            f"raise learner.max_tokens_per_micro_batch or lower rollout.max_new_tokens"
        )
    rows = fill_rows(lengths, max_tokens=max_tokens, multiple_of=num_ranks, row_cost=row_cost)
    dealt = deal_rows(rows, lengths, num_ranks=num_ranks, row_cost=row_cost)
    group_index = batch.group_index()
    filler = _micro_batch(batch, indices[[lengths.argmin()]], np.zeros(1), group_index)
    return [
        [_micro_batch(batch, indices[row], weights[row], group_index) if row else filler for row in rank_rows]
        for rank_rows in dealt
    ]


def _micro_batch(batch: TrainBatch, indices: np.ndarray, weights: np.ndarray, group_index: np.ndarray) -> MicroBatch:
    """The samples at `indices` in one row; weights: one an index; group_index: one a sample of the batch."""
    samples = [batch.samples[index] for index in indices]
    tokens = [sample.tokens for sample in samples]
    lengths = np.array([len(each.token_ids) for each in tokens], dtype=np.int64)
    nums_sampled = np.array([each.num_sampled for each in tokens], dtype=np.int64)
    row_ids = np.concatenate([each.token_ids for each in tokens]).astype(np.int64)
    sampled = np.flatnonzero(np.concatenate([each.completion_mask for each in tokens]))  # row positions
    return MicroBatch(
        sample_indices=np.asarray(indices, dtype=np.int64),
        token_ids=row_ids,
        position_ids=np.concatenate([np.arange(length, dtype=np.int64) for length in lengths]),
        sequence_lengths=lengths,
        positions=sampled - 1,  # the token before predicts it; a sequence's first token is never sampled
        targets=row_ids[sampled],
        sequence_index=np.repeat(np.arange(len(samples), dtype=np.int64), nums_sampled),
        group_index=np.repeat(group_index[indices], nums_sampled),
        rollout_logprobs=np.concatenate([each.rollout_logprobs for each in tokens]).astype(np.float32),
        advantages=np.repeat(np.array([sample.advantage for sample in samples], dtype=np.float32), nums_sampled),
        loss_weights=np.repeat(weights.astype(np.float32), nums_sampled),
    )
