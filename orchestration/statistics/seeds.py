"""Statistics over a few seeds: means with intervals, paired differences, and verdicts on pairs of arms.

In: one number a seed and arm. Out: frozen results. Intervals and tests are Student's t over seeds, which assumes that a
measure is roughly normal over seeds. Knows nothing of what was measured.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestration.statistics.student_t import power_of_paired_test, two_sided_p, two_sided_quantile

LEVEL = 0.95  # confidence level of every interval
SIGNIFICANCE = 1.0 - LEVEL  # significance of a family of comparisons, divided among them by Holm's method
POWER = 0.8  # probability with which the seeds asked for would find a difference like the observed one
MOST_SEEDS = 10_000  # end of the search for a sufficient number
REPORTED_UP_TO = 1_000  # limit above which a number is reported as "more than", because nobody runs so many seeds
ROUNDING = 1e-12  # share of the values below which a spread is rounding


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedMean:
    """The mean over seeds; without an interval where there is one seed only."""

    mean: float
    low: float | None
    high: float | None
    num_seeds: int

    def transformed(self, function: Callable[[float], float]) -> "SeedMean":
        """The mean and the ends of the interval mapped by an increasing function, such as a change of unit."""
        low, high = (None if end is None else function(end) for end in (self.low, self.high))
        return replace(self, mean=function(self.mean), low=low, high=high)


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedDifference:
    """First minus second over the seeds that both have."""

    mean: float
    low: float | None  # None: only one common seed
    high: float | None
    std: float | None  # standard deviation of the differences over seeds (n - 1)
    p_value: float | None  # p-value of the two-sided paired t-test, uncorrected; None: one seed, or no spread
    num_seeds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether a pair can be told apart, given the pairs it was tested with."""

    separable: bool
    p_holm: float | None  # p-value after Holm's correction; None where there is no p-value
    more_seeds: int | None  # seeds to add for POWER at the level that Holm's method leaves to this pair; None: unknown

    @property
    def text(self) -> str:
        if self.separable:
            return "separable"
        if self.more_seeds is None:
            return "not separable with these seeds, from which the number needed cannot be estimated"
        number = f"more than {REPORTED_UP_TO}" if self.more_seeds > REPORTED_UP_TO else f"about {self.more_seeds}"
        return f"not separable with these seeds, {number} more needed"


def seed_mean(values: Sequence[float]) -> SeedMean:
    """Mean and Student-t interval of one number a seed."""
    mean, _, half_width = _spread(values)
    if half_width is None:
        return SeedMean(mean=mean, low=None, high=None, num_seeds=len(values))
    return SeedMean(mean=mean, low=mean - half_width, high=mean + half_width, num_seeds=len(values))


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> SeedDifference | None:
    """Mean of first - second over the seeds in both; None where there is no such seed."""
    differences = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    if not differences:
        return None
    mean, std, half_width = _spread(differences)
    scale = max(abs(value) for values in (first, second) for value in values.values())
    if std is None or half_width is None:
        return SeedDifference(mean=mean, low=None, high=None, std=None, p_value=None, num_seeds=1)
    num_seeds = len(differences)
    p_value = None
    if std > ROUNDING * scale:
        p_value = two_sided_p(mean / (std / math.sqrt(num_seeds)), num_seeds - 1)
    return SeedDifference(
        mean=mean, low=mean - half_width, high=mean + half_width, std=std, p_value=p_value, num_seeds=num_seeds
    )


def judge(differences: Sequence[SeedDifference]) -> list[Verdict]:
    """Verdicts on the differences of one family, such as all pairs of gates on one measure.

    Holm's method: the smallest p-value must be below 5 % / m, the next below 5 % / (m - 1), and so on. The level at
    which the first p-value fails is the level that every remaining pair has to reach.
    """
    tested = [index for index, difference in enumerate(differences) if difference.p_value is not None]
    adjusted = dict(zip(tested, holm([_p_of(differences[index]) for index in tested]), strict=True))
    num_separable = sum(p <= SIGNIFICANCE for p in adjusted.values())
    open_level = SIGNIFICANCE / max(1, len(tested) - num_separable)
    verdicts = []
    for index, difference in enumerate(differences):
        p_holm = adjusted.get(index)
        verdict = Verdict(separable=p_holm is not None and p_holm <= SIGNIFICANCE, p_holm=p_holm, more_seeds=None)
        if p_holm is not None and not verdict.separable:
            needed = seeds_needed(difference, significance=open_level)
            verdict = replace(verdict, more_seeds=None if needed is None else max(1, needed - difference.num_seeds))
        verdicts.append(verdict)
    return verdicts


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values; comparing each with 5 % keeps the chance of any false verdict below 5 %."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def seeds_needed(difference: SeedDifference, *, significance: float = SIGNIFICANCE) -> int | None:
    """Number of seeds that would find a true difference of the observed mean and spread with probability POWER.

    At most MOST_SEEDS. None where the mean or the spread is zero.
    """
    if difference.p_value is None or not difference.std or difference.mean == 0.0:
        return None
    effect = abs(difference.mean) / difference.std

    def power(num_seeds: int) -> float:
        return power_of_paired_test(effect, num_seeds, significance=significance)

    numbers = range(2, MOST_SEEDS)  # power grows with the number of seeds
    return numbers.start + bisect_left(numbers, POWER, key=power)


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's correlation of two equally long series; None below three points or where one does not vary."""
    assert len(first) == len(second), (len(first), len(second))
    if len(first) < 3 or not np.ptp(first) or not np.ptp(second):
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _spread(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean, standard deviation (n - 1) and half-width of the interval; the last two are None for one value."""
    numbers = np.asarray(values, dtype=np.float64)
    assert numbers.size, "no seed has a value"
    mean = float(numbers.mean())
    if numbers.size == 1:
        return mean, None, None
    std = float(numbers.std(ddof=1))
    return mean, std, two_sided_quantile(LEVEL, numbers.size - 1) * std / math.sqrt(numbers.size)


def _p_of(difference: SeedDifference) -> float:
    assert difference.p_value is not None
    return difference.p_value
