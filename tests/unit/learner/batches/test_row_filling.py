"""Rows and ranks by cost: the model of what a row costs, and the balance it gives on heavy tails."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.batches.rows import BY_TOKENS, RowCost, deal_rows, fill_rows

PROPERTY = settings(derandomize=True, deadline=None, max_examples=60)
BY_ATTENTION = RowCost(pair_cost=1e-4)
MAX_TOKENS = 16_384


def heavy_tailed(num_sequences: int, seed: int) -> np.ndarray:
    """Mostly around a thousand tokens, some up to 16k."""
    tail = np.random.default_rng(seed).pareto(1.0, num_sequences)
    return np.minimum(512 * (1 + tail), MAX_TOKENS).astype(np.int64)


def cost_of(row: list[int], lengths: np.ndarray, row_cost: RowCost) -> float:
    return float(sum(lengths[row]) + row_cost.pair_cost * sum(lengths[row] ** 2))


def costs_of_ranks(lengths: np.ndarray, *, packed_by: RowCost, true_cost: RowCost, num_ranks: int) -> np.ndarray:
    """[ranks, micro-batches]"""
    rows = fill_rows(lengths, max_tokens=MAX_TOKENS, multiple_of=num_ranks, row_cost=packed_by)
    dealt = deal_rows(rows, lengths, num_ranks=num_ranks, row_cost=packed_by)
    return np.array([[cost_of(row, lengths, true_cost) for row in rank] for rank in dealt])


def first_fit_decreasing(lengths: list[int], max_tokens: int) -> int:
    """Number of rows, written out."""
    loads: list[int] = []
    for length in sorted(lengths, reverse=True):
        for row, load in enumerate(loads):
            if load + length <= max_tokens:
                loads[row] += length
                break
        else:
            loads.append(length)
    return len(loads)


def test_cost_of_a_row() -> None:
    tokens, squares = np.array([7]), np.array([3**2 + 4**2])
    assert RowCost(pair_cost=0.5).of(tokens, squares).tolist() == [7 + 0.5 * 25]
    assert BY_TOKENS.of(tokens, squares).tolist() == [7]


@PROPERTY
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40),
    slack=st.integers(0, 40),
    multiple_of=st.integers(1, 4),
    row_cost=st.sampled_from([BY_TOKENS, RowCost(pair_cost=0.2), RowCost(pair_cost=3.0)]),
)
def test_each_sequence_once_in_as_few_rows_as_first_fit_decreasing(
    lengths: list[int], slack: int, multiple_of: int, row_cost: RowCost
) -> None:
    max_tokens = max(lengths) + slack
    rows = fill_rows(np.array(lengths), max_tokens=max_tokens, multiple_of=multiple_of, row_cost=row_cost)
    assert sorted(place for row in rows for place in row) == list(range(len(lengths)))
    assert all(sum(lengths[place] for place in row) <= max_tokens for row in rows)
    assert len(rows) == -(-first_fit_decreasing(lengths, max_tokens) // multiple_of) * multiple_of
    dealt = deal_rows(rows, np.array(lengths), num_ranks=multiple_of, row_cost=row_cost)
    assert sorted(map(sorted, (row for rank in dealt for row in rank))) == sorted(map(sorted, rows))
    assert len({len(rank) for rank in dealt}) == 1


@pytest.mark.parametrize("num_sequences", [256, 512])
def test_ranks_are_balanced_by_cost_where_balancing_by_tokens_is_not_enough(num_sequences: int) -> None:
    """Ranks wait for each other at every micro-batch: the time is the sum of the slowest, over the sum of the means."""
    waits = {"tokens": [], "cost": []}
    for seed in range(10):
        lengths = heavy_tailed(num_sequences, seed)
        for name, packed_by in (("tokens", BY_TOKENS), ("cost", BY_ATTENTION)):
            costs = costs_of_ranks(lengths, packed_by=packed_by, true_cost=BY_ATTENTION, num_ranks=8)
            waits[name].append(costs.max(axis=0).sum() / costs.mean(axis=0).sum())
            if name == "cost":
                assert costs.sum(axis=1).max() / costs.sum(axis=1).mean() < 1.2
    assert np.median(waits["tokens"]) > 1.15
    assert np.median(waits["cost"]) < 1.1
    assert all(by_cost <= by_tokens for by_cost, by_tokens in zip(waits["cost"], waits["tokens"], strict=True))


def test_rows_side_by_side_are_neighbours_by_cost() -> None:
    costs = costs_of_ranks(heavy_tailed(256, seed=3), packed_by=BY_ATTENTION, true_cost=BY_ATTENTION, num_ranks=4)
    assert (costs.min(axis=0)[:-1] >= costs.max(axis=0)[1:]).all()


def test_even_rows_are_not_bought_with_a_budget_that_is_exceeded() -> None:
    """By cost the short ones would all go beside each other, where they have no room."""
    lengths = np.array([100, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10])
    rows = fill_rows(lengths, max_tokens=100, multiple_of=1, row_cost=RowCost(pair_cost=10.0))
    assert sorted(map(len, rows)) == [1, 10]
