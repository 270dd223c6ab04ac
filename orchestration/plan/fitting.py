"""Non-negative coefficients from measured times.

In: rows of counts and the seconds they took. Out: seconds a unit of each count, none negative: a cost below 0 would
make more work cheaper wherever a prediction leaves what was measured.
"""

from itertools import combinations

import numpy as np


def fit_seconds(counts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """[F] coefficients >= 0 that minimise the relative errors of counts [N, F] @ coefficients against seconds [N].

    Exact: the least-squares solution of every subset of the counts is tried, so F should be small. Counts that were
    always 0 get 0.
    """
    num_counts = counts.shape[1]
    weighted = counts / seconds[:, None]
    scale = np.abs(weighted).max(axis=0)
    scale[scale == 0.0] = 1.0
    best, best_error = np.zeros(num_counts), float(len(seconds))
    for size in range(1, num_counts + 1):
        for subset in map(list, combinations(range(num_counts), size)):
            solution, _, rank, _ = np.linalg.lstsq(weighted[:, subset] / scale[subset], np.ones(len(seconds)))
            if rank < size or (solution < 0.0).any():
                continue
            error = float(np.square(weighted[:, subset] / scale[subset] @ solution - 1.0).sum())
            if error < best_error * (1.0 - 1e-9):  # of equal fits the one with fewer coefficients
                best, best_error = np.zeros(num_counts), error
                best[subset] = solution / scale[subset]
    return best


def relative_error(counts: np.ndarray, seconds: np.ndarray, coefficients: np.ndarray) -> float:
    """Mean |fitted / measured - 1|."""
    return float(np.abs(counts @ coefficients / seconds - 1.0).mean())
