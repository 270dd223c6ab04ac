"""Student's t distribution, central and noncentral, as far as intervals, tests and their power need it.

Numbers in, numbers out, to about 1e-10. The incomplete beta function is computed by its continued fraction
(Abramowitz and Stegun 26.5.8), so that no further library is needed. Knows nothing of seeds or gates.
"""

import math

import numpy as np

MAX_TERMS = 10_000  # of the continued fraction; it needs about sqrt(max(a, b)) of them
FRACTION_TOLERANCE = 1e-15
TINY = 1e-300  # keeps a term of the fraction from being zero
POWER_POINTS = 4001  # of the integral over the sample's standard deviation
POWER_WIDTH = 10.0  # standard deviations of that integral's range on each side


def t_cdf(t: float, df: float) -> float:
    """P(T <= t) for T with df degrees of freedom."""
    tail = 0.5 * regularized_beta(df / (df + t * t), df / 2.0, 0.5)
    return tail if t < 0 else 1.0 - tail


def two_sided_p(t: float, df: float) -> float:
    """P(|T| >= |t|): the p-value of a two-sided test. Not by way of t_cdf, which loses small ones to rounding."""
    return regularized_beta(df / (df + t * t), df / 2.0, 0.5)


def two_sided_quantile(level: float, df: float) -> float:
    """The t > 0 with P(|T| <= t) = level, by bisection: 4.303 for level 0.95 and two degrees of freedom."""
    assert 0.0 < level < 1.0, level
    low, high = 0.0, 1.0
    while two_sided_p(high, df) > 1.0 - level:
        low, high = high, 2.0 * high
    while high - low > 1e-13 * high:
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        if two_sided_p(middle, df) > 1.0 - level:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def power_of_paired_test(effect: float, num_pairs: int, *, significance: float) -> float:
    """Probability that a two-sided t-test over num_pairs differences is significant, both signs counted.

    effect: true mean of the differences over their true standard deviation. T is noncentral t; given the standard
    deviation of the sample it is normal, so its two tails are integrated over that.
    """
    assert num_pairs >= 2, num_pairs
    df = num_pairs - 1
    critical = two_sided_quantile(1.0 - significance, df)
    shift = effect * math.sqrt(num_pairs)
    # The sample's standard deviation over the true one, chi / sqrt(df), has mean near 1 and spread near 1/sqrt(2 df).
    reach = POWER_WIDTH / math.sqrt(2.0 * df)
    spread = np.linspace(max(1e-9, 1.0 - reach), 1.0 + reach, POWER_POINTS)
    log_density = (df - 1) * np.log(spread) - 0.5 * df * spread**2
    density = np.exp(log_density - log_density.max())
    density /= density.sum()
    tails = [normal_cdf(shift - critical * s) + normal_cdf(-shift - critical * s) for s in spread.tolist()]
    return float(density @ np.asarray(tails))


def normal_cdf(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2.0))


def regularized_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), the distribution function of the beta distribution."""
    assert 0.0 <= x <= 1.0, x
    if x in (0.0, 1.0):
        return x
    if x > (a + 1.0) / (a + b + 2.0):  # where the fraction of the mirrored integral converges faster
        return 1.0 - regularized_beta(1.0 - x, b, a)
    log_front = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(log_front) / (a * _beta_fraction(x, a, b))


def _beta_fraction(x: float, a: float, b: float) -> float:
    """1 + d_1 / (1 + d_2 / (1 + ...)), from the front by Lentz's method."""
    value, above, below = 1.0, 1.0, 0.0
    for term in range(1, MAX_TERMS):
        half = term // 2
        if term % 2:
            factor = -(a + half) * (a + b + half) / ((a + 2 * half) * (a + 2 * half + 1))
        else:
            factor = half * (b - half) / ((a + 2 * half - 1) * (a + 2 * half))
        below = 1.0 / ((1.0 + factor * x * below) or TINY)
        above = (1.0 + factor * x / above) or TINY
        value *= above * below
        if abs(above * below - 1.0) < FRACTION_TOLERANCE:
            return value
    raise ArithmeticError(f"incomplete beta function: no convergence at x={x}, a={a}, b={b}")
