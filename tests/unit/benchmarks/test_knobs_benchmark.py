"""Settings of the knob benchmark, and its means over a run's rows."""

import pytest

from benchmarks.knobs import COOL_DOWN, KNOBS, WARMUP_ITERATIONS, Knob, run_means, time_ratios
from benchmarks.wordy_model import WORDY_SETTINGS
from configs.loading import load_config


def test_means_leave_out_both_ends_and_what_is_not_measured() -> None:
    rows = [{"time/iteration_s": 100.0, "reward/mean": 1.0} for _ in range(WARMUP_ITERATIONS)]
    rows += [
        {"time/iteration_s": 1.0, "reward/mean": 1.0, "group/replaced": 2.0},
        {"time/iteration_s": 4.0, "reward/mean": 2.0},
    ]
    rows += [{"time/iteration_s": 100.0, "reward/mean": 2.0} for _ in range(COOL_DOWN)]
    assert run_means(rows) == {"time/iteration_s": 2.5, "group/replaced": 2.0, "reward/last": 2.0}


def test_time_is_compared_run_by_run() -> None:
    ours, base = [{"time/iteration_s": 1.0}, {"time/iteration_s": 3.0}], [{"time/iteration_s": 2.0}] * 2
    assert time_ratios(ours, base) == [0.5, 1.5]


@pytest.mark.parametrize("knob", KNOBS, ids=lambda knob: knob.name)
def test_every_value_of_a_knob_is_a_valid_run(knob: Knob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.knobs.ensure_wordy_model", lambda: "some/model")
    configs = [
        load_config(knob.run_settings(value, seed=3, num_iterations=knob.num_iterations)) for value in knob.values
    ]
    assert len({config.model_dump_json() for config in configs}) == len(knob.values)
    assert {config.seed for config in configs} == {3}
    wordy = load_config(WORDY_SETTINGS)
    assert {config.rollout.max_new_tokens == wordy.rollout.max_new_tokens for config in configs} == {knob.is_wordy}
