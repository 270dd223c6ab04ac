"""What a few seeds tell: means with intervals, paired differences, and whether two arms can be told apart.

In: one number a seed and arm. Out: frozen results. Intervals and tests are Student's t over seeds, which assumes that a
measure is roughly normal over seeds; nothing here knows what was measured.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestration.statistics.student_t import power_of_paired_test, two_sided_p, two_sided_quantile

LEVEL = 0.95  # of every interval
SIGNIFICANCE = 1.0 - LEVEL  # of a family of comparisons, shared out by Holm's method
POWER = 0.8  # with which the seeds asked for would find the difference that was observed
MOST_SEEDS = 10_000  # where the search for a sufficient number ends
TOLD_UP_TO = 1_000  # more seeds than that are told as "more than", for nobody runs them
ROUNDING = 1e-12  # a spread below this share of the values is rounding, not spread


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedMean:
    """The mean over seeds; without interval where there is one seed only."""

    mean: float
    low: float | None
    high: float | None
    num_seeds: int

    def transformed(self, function: Callable[[float], float]) -> "SeedMean":
        """Mean and ends through an increasing function, such as a change of unit."""
        low, high = (None if end is None else function(end) for end in (self.low, self.high))
        return replace(self, mean=function(self.mean), low=low, high=high)


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedDifference:
    """First minus second over the seeds that both have."""

    mean: float
    low: float | None  # None: one common seed
    high: float | None
    std: float | None  # standard deviation of the differences over seeds (n - 1)
    p_value: float | None  # two-sided paired t-test, uncorrected; None: one seed, or a spread of zero
    num_seeds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether a pair can be told apart, among the pairs it was judged with."""

    separable: bool
    p_holm: float | None  # p-value after Holm's correction; None where there is no p-value
    more_seeds: int | None  # seeds to add for POWER at the level that Holm's method left to this pair; None: unknown

    @property
    def text(self) -> str:
        if self.separable:
            return "separable"
        if self.more_seeds is None:
            return "not separable with these seeds, which do not tell how many more are needed"
        number = f"more than {TOLD_UP_TO}" if self.more_seeds > TOLD_UP_TO else f"about {self.more_seeds}"
        return f"not separable with these seeds, {number} more needed"


def seed_mean(values: Sequence[float]) -> SeedMean:
    """Mean and Student-t interval of one number a seed."""
    mean, _, half_width = _spread(values)
    if half_width is None:
        return SeedMean(mean=mean, low=None, high=None, num_seeds=len(values))
    return SeedMean(mean=mean, low=mean - half_width, high=mean + half_width, num_seeds=len(values))


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> SeedDifference | None:
    """first - second, seed by seed, over the seeds in both; None where there is none."""
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
    """A verdict for each difference of one family, such as all pairs of gates on one measure.

    Holm's method: the smallest p-value must be below 5 % / m, the next below 5 % / (m - 1), and so on; it stops at the
    first that is not, and that level is what each remaining pair is asked to reach.
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
    """Holm's adjusted p-values: comparing each with 5 % keeps the chance of any false verdict below 5 %."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def seeds_needed(difference: SeedDifference, *, significance: float = SIGNIFICANCE) -> int | None:
    """Seeds at which a true difference of the observed mean and spread would be found with probability POWER.

    At most MOST_SEEDS. None where the mean or the spread is zero, which no number of seeds follows from.
    """
    if difference.p_value is None or not difference.std or difference.mean == 0.0:
        return None
    effect = abs(difference.mean) / difference.std

    def power(num_seeds: int) -> float:
        return power_of_paired_test(effect, num_seeds, significance=significance)

    numbers = range(2, MOST_SEEDS)  # power grows with the number of seeds
    return numbers.start + bisect_left(numbers, POWER, key=power)


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's, of equally long series; None below three points or where one of them does not vary."""
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    assert x.shape == y.shape, (x.shape, y.shape)
    if len(x) < 3:
        return None
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0.0 else None


def _spread(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean, standard deviation (n - 1) and half-width of the interval; None for what one value does not tell."""
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
