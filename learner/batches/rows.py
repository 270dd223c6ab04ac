"""Filling of packed rows with sequences, and of ranks with rows.

In: lengths, a token budget and a model of what a row costs. Out: places in the lengths, row by row and rank by rank.
Knows nothing of samples, tensors or models.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class RowCost:
    """Work of a row, in units of what a token costs outside attention.

    Sequences of lengths l cost sum l + pair_cost * sum l^2: attention compares tokens of the same sequence.
    """

    pair_cost: float

    def of(self, tokens: np.ndarray, squares: np.ndarray) -> np.ndarray:
        """[R] float64 for rows of so many tokens, with such sums of squared lengths."""
        return tokens + self.pair_cost * squares


BY_TOKENS = RowCost(pair_cost=0.0)


def fill_rows(lengths: np.ndarray, *, max_tokens: int, multiple_of: int, row_cost: RowCost) -> list[list[int]]:
    """Rows of sequences: as few as first-fit-decreasing needs, rounded up to a multiple, with even costs.

    A row may be empty.
    """
    longest_first = np.argsort(-lengths, kind="stable")
    row_of = _first_fit(lengths, longest_first, max_tokens)
    num_rows = -(-(int(row_of.max()) + 1) // multiple_of) * multiple_of
    even = _evenly(lengths, longest_first, num_rows, max_tokens, row_cost)
    if even is None:
        even = _evenly(lengths, longest_first, num_rows, max_tokens, BY_TOKENS)
    if even is not None:
        row_of = even
    rows: list[list[int]] = [[] for _ in range(num_rows)]
    for place in longest_first.tolist():
        rows[row_of[place]].append(place)
    return rows


def deal_rows(
    rows: list[list[int]], lengths: np.ndarray, *, num_ranks: int, row_cost: RowCost
) -> list[list[list[int]]]:
    """The same number of rows to each rank, the costliest first.

    Ranks wait for each other at every micro-batch, so rows that they compute side by side are neighbours by cost; the
    costliest of these goes to the rank with the least so far.
    """
    tokens = np.array([lengths[row].sum() for row in rows])
    squares = np.array([np.square(lengths[row], dtype=np.float64).sum() for row in rows])
    costs = row_cost.of(tokens, squares)
    costliest_first = np.argsort(-costs, kind="stable")
    dealt: list[list[list[int]]] = [[] for _ in range(num_ranks)]
    loads = np.zeros(num_ranks)
    for side_by_side in costliest_first.reshape(-1, num_ranks):
        for rank, row in zip(np.argsort(loads, kind="stable"), side_by_side, strict=True):
            dealt[rank].append(sorted(rows[row]))
            loads[rank] += costs[row]
    return dealt


def _first_fit(lengths: np.ndarray, longest_first: np.ndarray, max_tokens: int) -> np.ndarray:
    """Row of each sequence [N]: the first that has room, else a new one."""
    room = np.full(len(lengths), max_tokens)  # room of every row there could be
    row_of = np.empty(len(lengths), dtype=np.int64)
    num_rows = 0
    for place in longest_first:
        row = int((room[: num_rows + 1] >= lengths[place]).argmax())
        room[row] -= lengths[place]
        row_of[place] = row
        num_rows = max(num_rows, row + 1)
    return row_of


def _evenly(
    lengths: np.ndarray, longest_first: np.ndarray, num_rows: int, max_tokens: int, row_cost: RowCost
) -> np.ndarray | None:
    """Row of each sequence [N]: the one that costs least so far of those with room; None where none has room."""
    tokens, squares, costs = np.zeros(num_rows, dtype=np.int64), np.zeros(num_rows), np.zeros(num_rows)
    row_of = np.empty(len(lengths), dtype=np.int64)
    for place in longest_first:
        length = lengths[place]
        row = int(np.where(tokens + length <= max_tokens, costs, np.inf).argmin())
        if tokens[row] + length > max_tokens:
            return None
        tokens[row] += length
        squares[row] += float(length) ** 2
        costs[row] = row_cost.of(tokens[row], squares[row])
        row_of[place] = row
    return row_of
