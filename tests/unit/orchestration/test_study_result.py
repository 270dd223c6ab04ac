"""What is said about gates, from run folders with known numbers."""

from pathlib import Path

import numpy as np
import pytest
from study_folders import write_run, write_study

from reports.run_record import RecordError, read_run
from reports.study_claims import first_iteration_at, measure_claims
from reports.study_report import read_arms
from reports.study_result import StudyArm, StudyResult, summarize


def arms_in(study_dir: Path) -> list[StudyArm]:
    return read_arms(study_dir)[0]


def result_in(study_dir: Path) -> StudyResult:
    return summarize(arms_in(study_dir))


def test_the_table_is_the_mean_over_seeds(tmp_path: Path) -> None:
    for seed, quality in ((0, 0.1), (1, 0.3)):
        write_run(tmp_path / f"clip-seed{seed}", "gate=clip", f"seed={seed}", quality=quality)
    result = result_in(tmp_path)
    (row,) = result.gates
    assert row.values["eval/arithmetic/pass@1"] == pytest.approx({0: 0.6, 1: 0.81})
    assert row.means["eval/arithmetic/pass@1"].mean == pytest.approx(0.705)
    assert row.means["eval/arithmetic/pass@1"].low == pytest.approx(0.705 - 12.7062 * 0.105)
    assert result.untrained["eval/arithmetic/pass@1"].mean == 0.125
    rewards = [2.0 * min(1.0, 0.2 * (i + 1)) for i in range(12)]  # seed 0
    assert row.values["reward"][0] == pytest.approx(np.mean(rewards[-10:]))
    assert row.values["eur"][0] == pytest.approx(np.mean([0.7 + 0.02 * i for i in range(12)]))


def test_a_large_difference_is_separable_and_a_small_one_names_the_seeds_it_needs(tmp_path: Path) -> None:
    write_study(tmp_path, ["softsign", "erf", "clip"], [0, 1, 2], softsign=0.3, erf=0.001)
    pairs = {(pair.first, pair.second): pair for pair in result_in(tmp_path).pairs if pair.measure.startswith("eval/")}
    assert set(pairs) == {("erf", "softsign"), ("erf", "clip"), ("softsign", "clip")}
    assert pairs["softsign", "clip"].verdict.separable
    assert pairs["softsign", "clip"].difference.mean == pytest.approx(0.3, abs=0.01)
    undecided = pairs["erf", "clip"].verdict
    assert not undecided.separable
    assert undecided.more_seeds is not None
    assert undecided.more_seeds >= 1


def test_the_same_runs_give_the_same_result_in_any_order(tmp_path: Path) -> None:
    write_study(tmp_path, ["softsign", "clip"], [0, 1], softsign=0.1)
    arms = arms_in(tmp_path)
    first, second = summarize(arms), summarize([arms[1], arms[0], arms[3], arms[2]])
    assert first.gates == second.gates
    assert first.pairs == second.pairs


def test_bands_span_the_seeds(tmp_path: Path) -> None:
    write_study(tmp_path, ["clip"], [0, 5])
    bands = {band.metric: band for band in result_in(tmp_path).bands}
    band = bands["reward/mean"]
    assert band.iterations.tolist() == list(range(1, 13))
    assert (band.low < band.mean).all()
    assert (band.mean < band.high).all()
    assert "gate/tau_pos" not in bands, "the clip has no temperature"


def test_format_speed_and_coupling_worked_by_hand(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"clip-seed{seed}", "gate=clip", f"seed={seed}", quality=0.02)  # 0.12 a step: 8
        write_run(tmp_path / f"erf-seed{seed}", "gate=erf", f"seed={seed}", quality=0.36)  # 0.46 a step: 2
    claims = measure_claims(arms_in(tmp_path))
    speeds = {speed.gate: speed for speed in claims.speeds}
    assert claims.baseline == "clip"
    assert speeds["clip"].reached == {0: 8, 1: 8}
    assert speeds["erf"].reached == {0: 2, 1: 2}
    assert speeds["clip"].times_sooner is None
    sooner = speeds["erf"].times_sooner
    assert sooner is not None
    assert sooner.mean == pytest.approx(4.0)
    assert [each.levels.mean for each in claims.couplings if each.levels] == pytest.approx([-1.0, -1.0])
    assert claims.warnings == ()


def test_a_format_reward_that_is_never_reached_is_told_as_such(tmp_path: Path) -> None:
    write_run(tmp_path / "erf-seed0", "gate=erf", "num_iterations=4", quality=0.0)
    (arm,) = arms_in(tmp_path)
    assert first_iteration_at(arm, 0.9) is None
    (speed,) = measure_claims([arm]).speeds
    assert (speed.reached, speed.iteration, speed.times_sooner) == ({0: None}, None, None)


def test_arms_of_a_seed_are_checked_for_the_same_prompts_and_first_completions(tmp_path: Path) -> None:
    write_run(tmp_path / "clip-seed0", "gate=clip")
    write_run(tmp_path / "erf-seed0", "gate=erf")
    (prompts,) = measure_claims(arms_in(tmp_path)).prompts
    assert (prompts.same_prompts, prompts.same_first_completions) == (True, True)
    assert prompts.fingerprint

    write_run(tmp_path / "arctan-seed0", "gate=arctan", text="something else")
    claims = measure_claims(arms_in(tmp_path))
    assert claims.prompts[0].same_first_completions is False
    assert "Seed 0: arms sampled different completions from the initial model." in claims.warnings


@pytest.mark.parametrize(
    ("settings", "ratio_max", "told"),
    [
        (["learner.lr=1e-9"], 1.004, "Ratios never left 1 ± 1 % in erf-seed0"),
        (["learner.lr=1e-9"], 2.0, "Arms differ in more than gate and seed: learner.lr"),
    ],
)
def test_warnings(tmp_path: Path, settings: list[str], ratio_max: float, told: str) -> None:
    write_run(tmp_path / "clip-seed0", "gate=clip")
    write_run(tmp_path / "erf-seed0", "gate=erf", *settings, ratio_max=ratio_max)
    warnings = measure_claims(arms_in(tmp_path)).warnings
    assert any(warning.startswith(told) for warning in warnings), warnings
    assert any(warning.startswith("One seed only") for warning in warnings)


def test_an_inadmissible_gate_is_named(tmp_path: Path) -> None:
    own = ("gate=custom", "gate.factory=mine:make", "gate.allow_inadmissible=true")
    write_run(tmp_path / "custom-seed0", *own)
    warnings = measure_claims(arms_in(tmp_path)).warnings
    assert any("custom-seed0 trained with gate.allow_inadmissible=true" in warning for warning in warnings)


def test_live_and_replayed_arms_are_never_compared_with_each_other(tmp_path: Path) -> None:
    write_study(tmp_path, ["erf", "clip"], [0, 1])
    for gate in ("erf", "clip"):
        for seed in (0, 1):
            folder = tmp_path / f"{gate}-seed{seed}-replayed"
            write_run(folder, f"gate={gate}", f"seed={seed}", "rollout.replay=x", quality=0.1 * seed, evaluated=False)
    result = result_in(tmp_path)
    assert [(row.gate, row.kind) for row in result.gates] == [
        ("erf", "live"),
        ("clip", "live"),
        ("erf", "replayed"),
        ("clip", "replayed"),
    ]
    assert "eval/arithmetic/pass@1" not in result.gates[2].means
    assert result.untrained["eval/arithmetic/pass@1"].mean == 0.125
    assert {(pair.first, pair.second) for pair in result.pairs} == {("erf", "clip")}
    assert sum(pair.kind == "replayed" for pair in result.pairs) == 4


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="holds no run"):
        read_run(tmp_path)
    (tmp_path / "config.yaml").write_text("gate: 3\n")
    with pytest.raises(RecordError, match="report with the version that wrote it"):
        read_run(tmp_path)
