"""Student's t against printed tables, G*Power's sample sizes, closed forms and simulation."""

import math

import numpy as np
import pytest

from orchestration.statistics.seeds import (
    power_of_paired_test,
    two_sided_p,
    two_sided_quantile,
)


@pytest.mark.parametrize(
    ("level", "df", "table"),
    [
        (0.95, 1, 12.706),
        (0.95, 2, 4.303),
        (0.95, 3, 3.182),
        (0.95, 4, 2.776),
        (0.95, 9, 2.262),
        (0.99, 2, 9.925),
        (0.99, 10, 3.169),
        (0.90, 30, 1.697),
        (0.95, 120, 1.980),
        (0.95, 10**6, 1.960),
    ],
)
def test_quantiles_of_printed_tables(level: float, df: int, table: float) -> None:
    assert two_sided_quantile(level, df) == pytest.approx(table, abs=5e-4)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 7.0, 300.0])
def test_one_and_two_degrees_of_freedom_have_closed_forms(t: float) -> None:
    assert two_sided_p(t, 1) == pytest.approx(1 - 2 * math.atan(t) / math.pi, abs=1e-13)
    assert two_sided_p(-t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-13)


def test_small_p_values_keep_their_digits() -> None:
    assert two_sided_p(1e6, 2) == pytest.approx(2e-12 / 2, rel=1e-9)  # 1 - t / sqrt(2 + t^2) = 1 / t^2 for large t


@pytest.mark.parametrize("level", [0.5, 0.95, 0.9999])
@pytest.mark.parametrize("df", [1, 2, 5, 50, 5000])
def test_quantile_inverts_the_distribution(level: float, df: int) -> None:
    assert two_sided_p(two_sided_quantile(level, df), df) == pytest.approx(1 - level, rel=1e-9)


@pytest.mark.parametrize(("effect", "num_pairs"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10)])
def test_power_reaches_80_percent_at_the_sample_sizes_of_gpower(effect: float, num_pairs: int) -> None:
    assert power_of_paired_test(effect, num_pairs, significance=0.05) >= 0.8
    assert power_of_paired_test(effect, num_pairs - 1, significance=0.05) < 0.8


@pytest.mark.parametrize(("effect", "num_pairs"), [(5.0, 7), (20.0, 10), (2.0, 1000), (1e12, 3)])
def test_power_is_1_where_a_miss_is_too_improbable_to_compute(effect: float, num_pairs: int) -> None:
    assert power_of_paired_test(effect, num_pairs, significance=0.05) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(("effect", "num_pairs"), [(2.0, 2), (2.0, 3), (1.0, 5)])
def test_power_over_few_pairs_equals_simulation(effect: float, num_pairs: int) -> None:
    samples = np.random.default_rng(0).normal(effect, 1.0, size=(200_000, num_pairs))
    t = samples.mean(axis=1) / (samples.std(axis=1, ddof=1) / math.sqrt(num_pairs))
    simulated = float(np.mean(np.abs(t) > two_sided_quantile(0.95, num_pairs - 1)))
    assert power_of_paired_test(effect, num_pairs, significance=0.05) == pytest.approx(simulated, abs=0.004)


def test_power_without_effect_is_the_significance() -> None:
    assert power_of_paired_test(0.0, 6, significance=0.05) == pytest.approx(0.05, abs=1e-6)
