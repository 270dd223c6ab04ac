"""Figures of the overlap benchmark: seconds of an iteration, and ratios to the sides measured alone."""

import pytest

from benchmarks.overlap import FIXED, STALENESSES, TASKS, Repeat, seconds_per_iteration
from configs.loading import load_config


def test_an_iteration_is_a_mean_of_the_counted_ones_only() -> None:
    starts_s = [0.0, 9.0, 10.0, 11.0, 14.0, 15.0, 99.0]  # 1, 3 and 1 s from number 2 on
    assert seconds_per_iteration(starts_s, first=2, number=3) == pytest.approx(5.0 / 3.0)


def test_the_iteration_after_the_counted_ones_must_have_begun() -> None:
    with pytest.raises(IndexError):
        seconds_per_iteration([0.0, 1.0, 2.0], first=1, number=2)


@pytest.mark.parametrize(("generation_s", "learner_s"), [(4.0, 1.0), (1.0, 4.0)])
def test_synchronous_is_compared_with_the_sum_and_asynchronous_with_the_longer_side(
    generation_s: float, learner_s: float
) -> None:
    repeat = Repeat(
        generation_s=generation_s, learner_s=learner_s, iteration_s={0: 6.0, 1: 5.0, 2: 4.0}, tokens={}, means={}
    )
    assert [repeat.ratio(max_staleness) for max_staleness in (0, 1, 2)] == [1.2, 1.25, 1.0]
    assert repeat.to_json()["ratio"] == {0: 1.2, 1: 1.25, 2: 1.0}


@pytest.mark.parametrize("name", TASKS)
def test_both_tasks_have_the_same_batch_and_are_valid_runs(name: str) -> None:
    for max_staleness in STALENESSES:
        rollout = load_config([*FIXED, *TASKS[name], f"max_staleness={max_staleness}"]).rollout
        assert (rollout.prompts_per_iteration, rollout.completions_per_prompt) == (32, 8)
