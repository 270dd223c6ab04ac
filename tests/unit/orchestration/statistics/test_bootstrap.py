"""Coverage, size and power by simulation, and the exact cases."""

from itertools import product

import numpy as np
import pytest

from orchestration.statistics.bootstrap import bootstrap_interval, paired_bootstrap

NUM_EXPERIMENTS = 400
NUM_PROBLEMS = 200
QUICK = 1000  # resamples


@pytest.mark.parametrize(("right_share", "num_samples"), [(0.3, 1), (0.9, 1), (0.5, 8)])
def test_the_interval_covers_the_truth_as_often_as_it_says(right_share: float, num_samples: int) -> None:
    """Standard error of a coverage of 0.95 over 400 experiments: 0.011."""
    generator = np.random.default_rng(1)
    covered = 0
    for experiment in range(NUM_EXPERIMENTS):
        values = generator.binomial(num_samples, right_share, size=NUM_PROBLEMS) / num_samples
        found = bootstrap_interval(values, seed=experiment, num_resamples=QUICK)
        covered += found.low - 1e-9 <= right_share <= found.high + 1e-9
    assert 0.92 <= covered / NUM_EXPERIMENTS <= 0.98


def test_a_lower_level_covers_less() -> None:
    generator = np.random.default_rng(2)
    covered = 0
    for experiment in range(NUM_EXPERIMENTS):
        found = bootstrap_interval(generator.normal(size=50), seed=experiment, level=0.8, num_resamples=QUICK)
        covered += found.low <= 0.0 <= found.high
    assert 0.75 <= covered / NUM_EXPERIMENTS <= 0.85


def test_the_paired_test_keeps_its_size_where_nothing_differs() -> None:
    """Two models of equal accuracy on problems of varying difficulty: p < 0.05 in one experiment of twenty."""
    generator = np.random.default_rng(3)
    rejected = covered = 0
    for experiment in range(NUM_EXPERIMENTS):
        chances = generator.beta(1.0, 1.0, size=NUM_PROBLEMS)
        first, second = generator.binomial(4, chances) / 4, generator.binomial(4, chances) / 4
        found = paired_bootstrap(first, second, seed=experiment, num_resamples=QUICK)
        rejected += found.p_value < 0.05
        covered += found.low <= 0.0 <= found.high
    assert 0.02 <= rejected / NUM_EXPERIMENTS <= 0.08
    assert 0.92 <= covered / NUM_EXPERIMENTS <= 0.98


def test_the_paired_test_finds_a_difference_that_unpaired_intervals_hide() -> None:
    generator = np.random.default_rng(4)
    chances = generator.beta(0.3, 0.3, size=NUM_PROBLEMS)
    first = generator.binomial(8, chances) / 8
    second = generator.binomial(8, 0.88 * chances) / 8
    found = paired_bootstrap(first, second, seed=0)
    alone = [bootstrap_interval(values, seed=0) for values in (first, second)]
    assert alone[1].high > alone[0].low, "the two intervals overlap"
    assert found.p_value < 0.001
    assert 0.0 < found.low < found.mean < found.high
    reverse = paired_bootstrap(second, first, seed=0)
    assert reverse.mean == -found.mean
    assert reverse.p_value < 0.001


def test_few_values_agree_with_the_enumeration_of_all_resamples() -> None:
    """Three differences have 27 resamples; the p value is the share of those as far from 0 as the observed mean."""
    differences = np.array([-0.2, 0.1, 0.7])
    means = [np.mean(draw) for draw in product(differences - differences.mean(), repeat=3)]
    expected = np.mean([abs(mean) >= differences.mean() - 1e-9 for mean in means])
    assert 0 < expected < 1
    found = paired_bootstrap(differences, np.zeros(3), seed=0, num_resamples=200_000)
    assert found.p_value == pytest.approx(expected, abs=0.01)


def test_a_skewed_sample_has_a_skewed_interval() -> None:
    values = np.array([1.0] * 58 + [0.0] * 2)
    found = bootstrap_interval(values, seed=0)
    assert found.high <= 1.0
    assert found.mean - found.low > 2 * (found.high - found.mean)


def test_equal_values_have_no_width_and_equal_models_no_difference() -> None:
    found = bootstrap_interval(np.full(7, 0.1), seed=0)
    assert (found.low, found.high) == (found.mean, found.mean)
    assert found.mean == pytest.approx(0.1)
    difference = paired_bootstrap(np.array([0.0, 1.0, 1.0]), np.array([0.0, 1.0, 1.0]), seed=0)
    assert (difference.mean, difference.low, difference.high, difference.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_one_seed_gives_one_answer_and_many_distinct_values_are_drawn_in_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(5).normal(size=400)
    found = bootstrap_interval(values, seed=7)
    assert found == bootstrap_interval(values, seed=7)
    assert found != bootstrap_interval(values, seed=8)
    monkeypatch.setattr("orchestration.statistics.bootstrap.MAX_DRAWS", 4000)
    assert found == bootstrap_interval(values, seed=7)


@pytest.mark.parametrize(
    ("values", "level", "message"),
    [
        (np.zeros(0), 0.95, "at least one problem"),
        (np.zeros((2, 2)), 0.95, "shape"),
        (np.array([0.0, np.nan]), 0.95, "finite"),
        (np.zeros(2), 1.0, "level=1.0"),
    ],
)
def test_what_has_no_interval_is_refused(values: np.ndarray, level: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, seed=0, level=level)


def test_pairs_must_be_of_the_same_problems() -> None:
    with pytest.raises(ValueError, match="the same problems"):
        paired_bootstrap(np.zeros(3), np.zeros(4), seed=0)
