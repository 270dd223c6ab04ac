"""Student's t distribution as far as intervals, tests and their power need it: SciPy's, by the names used here.

Numbers in, numbers out. Knows nothing of seeds or gates. scipy.special, because scipy.stats takes a second to import.
"""

from numpy import nan_to_num
from scipy.special import ncfdtr, stdtr, stdtrit


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
    return 1.0 - float(nan_to_num(missed))  # nan: too improbable to compute
