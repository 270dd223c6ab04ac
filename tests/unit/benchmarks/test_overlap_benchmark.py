"""Figures of the overlap benchmark: seconds of an iteration, and ratios to the sides measured alone."""

from pathlib import Path

import pytest

from benchmarks import overlap
from benchmarks.overlap import FIXED, STALENESSES, TASKS, WARMUP_ITERATIONS, Repeat, run_settings
from configs.loading import load_config


def test_an_iteration_is_a_mean_of_the_counted_ones_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [9.0] * WARMUP_ITERATIONS + [1.0, 3.0, 1.0] + [99.0] * 3
    rows = [{"completion/length_mean": elapsed_s, "idle/learner": 0.5} for elapsed_s in seconds]
    monkeypatch.setattr(overlap, "run_seconds", lambda settings: (rows, seconds))
    settings = run_settings("arithmetic", Path("model"), max_staleness=1, number=3)
    mean_s, means = overlap._run(settings, number=3)
    assert mean_s == pytest.approx(5.0 / 3.0)
    assert means == {"idle/learner": 0.5, "tokens": pytest.approx(256 * 5.0 / 3.0)}


def test_after_the_counted_iterations_come_those_that_generate_nothing() -> None:
    config = load_config(run_settings("arithmetic", Path("model"), max_staleness=2, number=3))
    assert config.num_iterations >= WARMUP_ITERATIONS + 3 + 2 + 1
    assert (config.max_staleness, config.model.path) == (2, "model")


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
