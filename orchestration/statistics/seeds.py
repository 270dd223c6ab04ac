"""Statistics over a few seeds: means with intervals, paired differences, and verdicts on pairs of arms.

In: one number a seed and arm. Out: frozen results. Intervals and tests are Student's t over seeds, which assumes that a
measure is roughly normal over seeds. Knows nothing of what was measured.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from scipy.special import ncfdtr, stdtr, stdtrit  # scipy.stats takes a second to import

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
class SeedDifference(SeedMean):
    """First minus second over the seeds that both have."""

    std: float | None  # standard deviation of the differences over seeds (n - 1)
    p_value: float | None  # p-value of the two-sided paired t-test, uncorrected; None: one seed, or no spread


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
    return _mean_and_std(values)[0]


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> SeedDifference | None:
    """Mean of first - second over the seeds in both; None where there is no such seed."""
    differences = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    if not differences:
        return None
    found, std = _mean_and_std(differences)
    scale = max(abs(value) for values in (first, second) for value in values.values())
    p_value = None
    if std is not None and std > ROUNDING * scale:
        p_value = two_sided_p(found.mean / (std / math.sqrt(found.num_seeds)), found.num_seeds - 1)
    return SeedDifference(**asdict(found), std=std, p_value=p_value)


def judge(differences: Sequence[SeedDifference]) -> list[Verdict]:
    """Verdicts on the differences of one family, such as all pairs of gates on one measure.

    Holm's method: the smallest p-value must be below 5 % / m, the next below 5 % / (m - 1), and so on. The level at
    which the first p-value fails is the level that every remaining pair has to reach.
    """
    p_values = [difference.p_value for difference in differences if difference.p_value is not None]
    adjusted = holm(p_values)
    open_level = SIGNIFICANCE / max(1, sum(p > SIGNIFICANCE for p in adjusted))
    in_order = iter(adjusted)
    verdicts = []
    for difference in differences:
        p_holm = None if difference.p_value is None else next(in_order)
        separable, more_seeds = p_holm is not None and p_holm <= SIGNIFICANCE, None
        if not separable and (needed := seeds_needed(difference, significance=open_level)) is not None:
            more_seeds = max(1, needed - difference.num_seeds)
        verdicts.append(Verdict(separable=separable, p_holm=p_holm, more_seeds=more_seeds))
    return verdicts


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values; comparing each with 5 % keeps the chance of any false verdict below 5 %."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(len(p), 0, -1) * p[order]))
    found: list[float] = adjusted.tolist()
    return found


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


def two_sided_p(t: float, df: float) -> float:
    """P(|T| >= |t|): the p-value of a two-sided test. From the lower tail, where small ones keep their digits."""
    return float(2.0 * stdtr(df, -abs(t)))


def two_sided_quantile(level: float, df: float) -> float:
    """The t > 0 with P(|T| <= t) = level: 4.303 for level 0.95 and two degrees of freedom."""
    return float(stdtrit(df, 0.5 + 0.5 * level))


def power_of_paired_test(effect: float, num_pairs: int, *, significance: float) -> float:
    """Probability that a two-sided t-test over num_pairs differences is significant, both signs counted.

    effect: true mean of the differences over their true standard deviation. T is noncentral t, so its square is
    noncentral F with 1 and num_pairs - 1 degrees of freedom: both tails at once.
    """
    assert num_pairs >= 2, num_pairs
    df = num_pairs - 1
    critical = two_sided_quantile(1.0 - significance, df)
    missed = ncfdtr(1, df, num_pairs * effect**2, critical**2)
    return 1.0 - float(np.nan_to_num(missed))  # nan: too improbable to compute


def _mean_and_std(values: Sequence[float]) -> tuple[SeedMean, float | None]:
    """Mean with its interval, and standard deviation (n - 1), None for one value."""
    numbers = np.asarray(values, dtype=np.float64)
    assert numbers.size, "no seed has a value"
    mean, num_seeds = float(numbers.mean()), numbers.size
    if num_seeds == 1:
        return SeedMean(mean=mean, low=None, high=None, num_seeds=1), None
    std = float(numbers.std(ddof=1))
    half_width = two_sided_quantile(LEVEL, num_seeds - 1) * std / math.sqrt(num_seeds)
    return SeedMean(mean=mean, low=mean - half_width, high=mean + half_width, num_seeds=num_seeds), std
