"""Intervals, differences and verdicts over seeds: hand-worked cases, coverage and error rates by simulation."""

import numpy as np
import pytest

from orchestration.statistics.seeds import (
    MOST_SEEDS,
    SeedDifference,
    correlation,
    holm,
    judge,
    paired_difference,
    seed_mean,
    seeds_needed,
)

FIRST = {0: 1.9, 1: 1.8, 2: 1.7}
SECOND = {0: 1.5, 1: 1.5, 2: 1.2}


def difference(mean: float, std: float, num_seeds: int = 3) -> SeedDifference:
    """One with exactly this mean and standard deviation over seeds."""
    shape = np.random.default_rng(7).normal(size=num_seeds)
    shape = (shape - shape.mean()) / shape.std(ddof=1)
    found = paired_difference(dict(enumerate(mean + std * shape)), dict.fromkeys(range(num_seeds), 0.0))
    assert found is not None
    return found


def test_mean_and_interval_worked_by_hand() -> None:
    found = seed_mean([1.0, 2.0, 3.0])  # std 1, so half-width 4.303 / sqrt(3)
    assert (found.mean, found.num_seeds) == (2.0, 3)
    assert found.low == pytest.approx(2.0 - 2.4841, abs=1e-4)
    assert found.high == pytest.approx(2.0 + 2.4841, abs=1e-4)


def test_one_seed_has_no_interval() -> None:
    found = seed_mean([0.5])
    assert (found.mean, found.low, found.high) == (0.5, None, None)


def test_interval_covers_the_mean_in_95_percent_of_studies() -> None:
    samples = np.random.default_rng(1).normal(size=(4000, 3))
    found = [seed_mean(row) for row in samples.tolist()]
    covered = np.mean(
        [item.low <= 0.0 <= item.high for item in found if item.low is not None and item.high is not None]
    )
    assert covered == pytest.approx(0.95, abs=0.012)


def test_paired_difference_worked_by_hand() -> None:
    found = paired_difference(FIRST, SECOND)  # 0.4, 0.3, 0.5: mean 0.4, std 0.1, t = 6.928
    assert found is not None
    assert found.mean == pytest.approx(0.4)
    assert found.std == pytest.approx(0.1)
    assert found.p_value == pytest.approx(0.0202, abs=1e-4)
    assert found.low == pytest.approx(0.4 - 0.2484, abs=1e-4)


def test_only_common_seeds_count() -> None:
    found = paired_difference(FIRST | {7: 99.0}, SECOND | {8: -99.0})
    assert found == paired_difference(FIRST, SECOND)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_pairing_removes_what_seeds_have_in_common() -> None:
    luck = {0: -5.0, 1: 0.0, 2: 5.0}
    shifted = paired_difference(
        {seed: FIRST[seed] + luck[seed] for seed in FIRST}, {seed: SECOND[seed] + luck[seed] for seed in SECOND}
    )
    assert shifted is not None
    assert shifted.std == pytest.approx(0.1)


def test_holm_worked_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_a_lone_pair_needs_no_correction() -> None:
    (verdict,) = judge([difference(0.4, 0.1)])
    assert verdict.separable
    assert verdict.p_holm == pytest.approx(0.0202, abs=1e-4)
    assert verdict.text == "separable"


def test_the_same_pair_among_ten_is_not_separable_and_says_how_many_seeds_are() -> None:
    family = [difference(0.4, 0.1), *(difference(0.05, 0.1) for _ in range(9))]
    first, *others = judge(family)
    assert not first.separable
    assert first.more_seeds is not None
    assert first.text == f"not separable with these seeds, about {first.more_seeds} more needed"
    needed = 3 + first.more_seeds
    assert needed == seeds_needed(family[0], significance=0.005)
    # With the same mean and spread over that many seeds, the pair is found (80 % power is beyond the threshold itself).
    assert judge([difference(0.4, 0.1, num_seeds=needed), *family[1:]])[0].separable
    assert all(verdict.more_seeds is not None and verdict.more_seeds > first.more_seeds for verdict in others)


def test_seeds_needed_equal_gpower() -> None:
    assert seeds_needed(difference(0.5, 1.0)) == 34
    assert seeds_needed(difference(-0.8, 1.0)) == 15


def test_hopeless_differences_are_bounded() -> None:
    (verdict,) = judge([difference(1e-6, 1.0)])
    assert verdict.more_seeds == MOST_SEEDS - 3
    assert verdict.text == "not separable with these seeds, more than 1000 more needed"
    assert seeds_needed(difference(1e-6, 1.0)) == MOST_SEEDS


@pytest.mark.parametrize(
    ("first", "second"),
    [({0: 1.0}, {0: 0.0}), ({0: 1.0, 1: 1.0}, {0: 0.5, 1: 0.5}), ({0: 0.9, 1: 0.8}, {0: 0.9, 1: 0.8})],
    ids=["one seed", "no spread", "equal"],
)
def test_without_a_spread_nothing_is_separable_and_no_number_is_named(
    first: dict[int, float], second: dict[int, float]
) -> None:
    found = paired_difference(first, second)
    assert found is not None
    (verdict,) = judge([found])
    assert (verdict.separable, verdict.p_holm, verdict.more_seeds) == (False, None, None)
    assert "cannot be estimated" in verdict.text


def test_five_equal_gates_are_called_separable_in_at_most_5_percent_of_studies() -> None:
    generator = np.random.default_rng(3)
    false_studies = 0
    for _ in range(400):
        arms = [dict(enumerate(values)) for values in generator.normal(size=(5, 3)).tolist()]
        pairs = [paired_difference(arms[i], arms[j]) for i in range(5) for j in range(i)]
        adjusted = holm([pair.p_value for pair in pairs if pair is not None and pair.p_value is not None])
        false_studies += min(adjusted) <= 0.05
    assert false_studies <= 400 * 0.08  # 5 %, and three standard errors of the simulation


def test_correlation() -> None:
    rising = np.arange(10.0)
    assert correlation(rising, 3 * rising + 1) == pytest.approx(1.0)
    assert correlation(rising, -(rising**3)) == pytest.approx(-np.corrcoef(rising, rising**3)[0, 1])
    assert correlation(rising, np.ones(10)) is None
    assert correlation([1.0, 2.0], [1.0, 2.0]) is None
