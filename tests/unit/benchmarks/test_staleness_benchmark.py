"""Samples to a reward, the ratio of two runs, and the verdict on several."""

import pytest

from benchmarks.staleness import MODES, TrainedRun, sample_ratio, samples_to_reward, verdict
from orchestration.pages.figures import color_of


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1.0, 1.0, 1.9, 2.0, 2.0], 40),  # 1.45 at the third iteration, 1.95 at the fourth
        ([2.0, 0.0, 2.0, 0.0, 2.0], None),  # one good iteration is not enough
        ([2.0], None),  # no whole window
        ([2.0, 2.0, 0.0, 0.0], 20),  # the first time at the threshold counts
        ([1.5, 1.5], 20),  # at the threshold
        ([], None),
    ],
)
def test_samples_to_reward_are_those_of_the_first_window_that_is_good(
    rewards: list[float], expected: int | None
) -> None:
    assert samples_to_reward(rewards, samples_per_iteration=10, threshold=1.5, window=2) == expected


@pytest.mark.parametrize(
    ("stale", "synchronous", "num_samples", "expected"),
    [
        (1200, 1000, 6000, 1.2),
        (None, 1000, 6000, float("inf")),  # more than 1.2 times as many, without reaching it
        (None, 5500, 6000, None),  # may still reach it in time
        (1200, None, 6000, None),
    ],
)
def test_a_run_that_never_gets_there_is_a_miss_only_where_it_had_its_chance(
    stale: int | None, synchronous: int | None, num_samples: int, expected: float | None
) -> None:
    assert sample_ratio(stale, synchronous, num_samples=num_samples) == expected


@pytest.mark.parametrize(
    ("ratios", "told"),
    [
        ([1.1, 1.3, 1.0], "ratio 1.10 (1.00 - 1.30), target 1.2: met"),
        ([1.1, 1.3, float("inf")], "ratio 1.30 (1.10 - inf), target 1.2: missed"),
        ([1.1, None, 1.0], "target 1.2: not decided, 1 of 3 seeds need more iterations"),
    ],
)
def test_verdict_is_of_the_median_and_of_all_seeds_or_none(ratios: list[float | None], told: str) -> None:
    assert verdict(ratios) == told


def test_fullness_leaves_out_the_iterations_that_cannot_be_stale_yet() -> None:
    run = TrainedRun(
        mode="max_staleness=4",
        seed=0,
        samples_per_iteration=8,
        reward=(0.0,) * 8,
        staleness=(0.0, 1.0, 2.0, 3.0, 4.0, 3.7, 3.5, 1.0),
        staleness_max=4.0,
        idle_learner=0.0,
        idle_engines=0.0,
    )
    assert run.full_share == 0.5


def test_curves_of_the_modes_have_colours_of_their_own() -> None:
    assert len({color_of(mode) for mode in MODES}) == len(MODES)
