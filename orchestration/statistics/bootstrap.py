"""Bootstrap intervals for the mean over problems, and for the mean difference of two evaluations of the same problems.

In: one number a problem. Out: mean, interval, p value. The interval is BCa (Efron 1987): percentiles of the resampled
means, shifted for the skewness of the numbers, which is large where nearly all problems are solved or nearly none.
Problems are what is drawn at random. Not scipy.stats.bootstrap, which draws indices one by one (0.8 s for 1,319
problems against 1 ms) and gives nan where all numbers are equal.
"""

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np

NUM_RESAMPLES = 10_000  # resamples; another seed then moves an end of a 95 % interval by about 1 % of its width
ROUNDING = 1e-12  # difference below which resampled means are equal: they add the same numbers in another order
MAX_DRAWS = 4_000_000  # counts held in memory at once
NORMAL = NormalDist()


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean and the interval around it."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifference(Interval):
    """The mean of first - second over problems, its interval, and the p value of "the true mean is 0"."""

    p_value: float  # two-sided


def bootstrap_interval(
    values: np.ndarray, *, seed: int, level: float = 0.95, num_resamples: int = NUM_RESAMPLES
) -> Interval:
    """The mean of values [N] with its BCa interval, of width 0 where all values are equal."""
    _check(values, level=level)
    return _interval(values, _resampled_means(values, seed=seed, num_resamples=num_resamples), level=level)


def paired_bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    *,
    seed: int,
    level: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
) -> PairedDifference:
    """The mean of first [N] - second [N], which are numbers of the same problems in the same order.

    p value: share of resamples, drawn from differences shifted to mean 0, whose mean is as far from 0 as the observed.
    """
    if first.shape != second.shape:
        raise ValueError(f"first has shape {first.shape}, second {second.shape}: they must be of the same problems")
    differences = first - second
    _check(differences, level=level)
    means = _resampled_means(differences, seed=seed, num_resamples=num_resamples)
    interval = _interval(differences, means, level=level)
    num_as_far = np.count_nonzero(np.abs(means - interval.mean) >= abs(interval.mean) - ROUNDING)
    p_value = (int(num_as_far) + 1) / (num_resamples + 1)  # the observed sample counts too: p is never 0
    return PairedDifference(mean=interval.mean, low=interval.low, high=interval.high, p_value=p_value)


def _check(values: np.ndarray, *, level: float) -> None:
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"values have shape {values.shape}: must be one number for each of at least one problem")
    if not np.isfinite(values).all():
        raise ValueError("values are not all finite")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level={level}: must lie between 0 and 1")


def _resampled_means(values: np.ndarray, *, seed: int, num_resamples: int) -> np.ndarray:
    """Means [num_resamples] of N values drawn with replacement.

    The numbers of draws of each distinct value are multinomial. As a problem's share of right samples takes few values,
    drawing these numbers is exact and a hundred times faster than drawing N indices.
    """
    distinct, counts = np.unique(values, return_counts=True)
    generator = np.random.default_rng(seed)
    rows = max(1, MAX_DRAWS // len(distinct))
    sizes = [min(rows, num_resamples - start) for start in range(0, num_resamples, rows)]
    drawn = (generator.multinomial(len(values), counts / len(values), size=size) for size in sizes)
    return np.concatenate([counts_drawn @ distinct / len(values) for counts_drawn in drawn])


def _interval(values: np.ndarray, means: np.ndarray, *, level: float) -> Interval:
    """The BCa interval: percentiles of the resampled means at tails shifted by bias and acceleration."""
    mean = float(values.mean())
    centred = values - mean
    spread = float(np.sum(centred**2))
    if np.ptp(values) <= ROUNDING:
        return Interval(mean=mean, low=mean, high=mean)
    acceleration = float(np.sum(centred**3)) / (6.0 * spread * sqrt(spread))
    below = float(np.mean(means < mean - ROUNDING) + 0.5 * np.mean(np.abs(means - mean) <= ROUNDING))
    bias = NORMAL.inv_cdf(min(max(below, 1.0 / len(means)), 1.0 - 1.0 / len(means)))

    def percentile(tail: float) -> float:
        shifted = bias + NORMAL.inv_cdf(tail)
        return NORMAL.cdf(bias + shifted / (1.0 - acceleration * shifted))

    low, high = np.quantile(means, [percentile((1.0 - level) / 2.0), percentile((1.0 + level) / 2.0)])
    return Interval(mean=mean, low=float(low), high=float(high))
