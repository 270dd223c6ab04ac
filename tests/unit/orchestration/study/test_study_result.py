"""What is said about gates, from run folders with known numbers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from study_folders import write_run, write_study

from orchestration.journal.run_record import RecordError, read_run
from orchestration.pages.page import Bullets, Figures
from orchestration.study.claims import first_iteration_at, measure_claims, stayed_at_one
from orchestration.study.page import study_blocks
from orchestration.study.report import panels, read_arms
from orchestration.study.result import KINDS, PANELS, StudyArm, StudyResult, summarize


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


@pytest.mark.parametrize("metric", sorted({metric for *_, metrics in PANELS for metric in metrics}))
def test_every_curve_has_a_band_that_spans_the_seeds(tmp_path: Path, metric: str) -> None:
    write_study(tmp_path, ["erf"], [0, 1, 2])
    arms = [scaled(arm, metric, factor) for arm, factor in zip(arms_in(tmp_path), (1.0, 4.0, 2.0), strict=True)]
    values = np.array([[row[metric] for row in arm.record.rows] for arm in arms])
    (band,) = [band for band in summarize(arms).bands if band.metric == metric]
    assert band.iterations.tolist() == list(range(1, 13))
    for found, expected in ((band.low, values[0]), (band.high, values[1]), (band.mean, values.sum(axis=0) / 3)):
        np.testing.assert_allclose(found, expected, rtol=0.02)  # but for the jitter of the made-up runs
    assert (band.low < band.mean).all()
    assert (band.mean < band.high).all()


def scaled(arm: StudyArm, metric: str, factor: float) -> StudyArm:
    rows = tuple({**row, metric: factor * row[metric]} for row in arm.record.rows)
    return replace(arm, record=replace(arm.record, rows=rows))


def test_every_reward_is_a_measure_with_a_band_and_a_panel(tmp_path: Path) -> None:
    write_study(tmp_path, ["erf"], [0, 1])
    arms = [with_own_reward(arm) for arm in arms_in(tmp_path)]
    result = summarize(arms)
    (gate,) = result.gates
    assert gate.values["reward/short"] == pytest.approx({0: 0.5, 1: 1.5})
    assert set(gate.values) >= {"reward/format", "reward/answer"}
    assert {"reward/format", "reward/answer", "reward/short"} <= {band.metric for band in result.bands}
    titles = [panel.title for panel in panels(result, "live")]
    assert titles == [*(title for title, *_ in PANELS), "Answer reward", "Short reward"]


def with_own_reward(arm: StudyArm) -> StudyArm:
    rows = tuple({**row, "reward/short": 0.5 + arm.seed} for row in arm.record.rows)
    return replace(arm, record=replace(arm.record, rows=rows))


def test_the_clip_has_no_curve_of_a_temperature(tmp_path: Path) -> None:
    write_study(tmp_path, ["clip"], [0])
    assert {band.metric for band in result_in(tmp_path).bands}.isdisjoint({"gate/tau_pos", "gate/tau_neg"})


def test_both_years_of_aime_are_one_column_too_as_in_the_paper(tmp_path: Path) -> None:
    write_study(tmp_path, ["erf"], [0, 1])
    arms = [with_evals(arm, {"aime24": 0.1 + 0.1 * arm.seed, "aime25": 0.3}) for arm in arms_in(tmp_path)]
    result = summarize(arms)
    (measure,) = [measure for measure in result.measures if measure.label == "AIME 24 and 25 pass@1, %"]
    assert result.gates[0].values[measure.key] == pytest.approx({0: 0.2, 1: 0.25})
    assert result.untrained[measure.key].mean == pytest.approx(0.225)
    one_year = summarize([with_evals(arm, {"aime24": 0.1}) for arm in arms])
    assert not any("24 and 25" in measure.label for measure in one_year.measures)


def with_evals(arm: StudyArm, shares: dict[str, float]) -> StudyArm:
    row = {f"eval/{name}/pass@1": share for name, share in shares.items()}
    return replace(arm, record=replace(arm.record, evals=dict.fromkeys((0, 12), row)))


def test_a_task_without_evaluation_sets_is_finished_by_its_rows(tmp_path: Path) -> None:
    settings = ("task=custom", "task.train.mine.path=mine.jsonl", "task.max_prompt_tokens=32")
    write_run(tmp_path / "clip-seed0", "gate=clip", *settings, evaluated=False)
    write_run(tmp_path / "erf-seed0", "gate=erf", *settings, evaluated=False, rows=11)
    arms, unfinished = read_arms(tmp_path)
    assert [arm.gate for arm in arms] == ["clip"]
    assert [name for name, _ in unfinished] == ["erf-seed0"]


def test_format_speed_and_coupling_worked_by_hand(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"clip-seed{seed}", "gate=clip", f"seed={seed}", quality=0.02)  # 0.12 a step: 8
        write_run(tmp_path / f"erf-seed{seed}", "gate=erf", f"seed={seed}", quality=0.36)  # 0.46 a step: 2
    claims = measure_claims(arms_in(tmp_path))
    speeds = {each.gate: each for each in claims.gates}
    assert claims.baseline == "clip"
    assert speeds["clip"].reached == {0: 8, 1: 8}
    assert speeds["erf"].reached == {0: 2, 1: 2}
    assert speeds["clip"].times_sooner is None
    sooner = speeds["erf"].times_sooner
    assert sooner is not None
    assert sooner.mean == pytest.approx(4.0)
    assert [each.levels.mean for each in claims.gates if each.levels] == pytest.approx([-1.0, -1.0])
    assert claims.warnings == ()


def test_a_gate_that_is_as_fast_as_the_clip_is_told_to_be_so(tmp_path: Path) -> None:
    for gate in ("clip", "erf"):
        write_run(tmp_path / f"{gate}-seed0", f"gate={gate}", quality=0.02)
    speeds = {each.gate: each.times_sooner for each in measure_claims(arms_in(tmp_path)).gates}
    assert speeds["clip"] is None
    assert speeds["erf"] is not None
    assert speeds["erf"].mean == pytest.approx(1.0)


def test_the_findings_are_sentences_for_every_gate(tmp_path: Path) -> None:
    """The clip reaches the target with one of two seeds, softsign with none, and the others with both."""
    for gate, seed, quality in (("clip", 0, 0.02), ("clip", 1, -0.07), ("softsign", 0, -0.07), ("softsign", 1, -0.07)):
        write_run(tmp_path / f"{gate}-seed{seed}", f"gate={gate}", f"seed={seed}", quality=quality)
    for seed in (0, 1):
        write_run(tmp_path / f"erf-seed{seed}", "gate=erf", f"seed={seed}", quality=0.36)
    told = statements(arms_in(tmp_path))
    assert told[:4] == [
        "erf reaches a format reward of 0.9 at iteration 2.0 ± 0.0 (mean of 2 of 2 seed(s)), 4.00 times as soon as "
        "clip (mean of 1 seed(s) in which both do).",
        "softsign does not reach a format reward of 0.9.",
        "clip reaches a format reward of 0.9 at iteration 8.0 (mean of 1 of 2 seed(s)).",
        "Entropy and EUR move against each other in 3 of 3 gates (erf, softsign, clip).",
    ]
    without_clip = statements([arm for arm in arms_in(tmp_path) if arm.gate == "erf"])
    assert without_clip[0] == "erf reaches a format reward of 0.9 at iteration 2.0 ± 0.0 (mean of 2 of 2 seed(s))."


def statements(arms: list[StudyArm]) -> list[str]:
    """The sentences of the report's findings."""
    empty = dict.fromkeys(KINDS, Figures(items=()))
    claims = measure_claims(arms)
    blocks = study_blocks(summarize(arms), claims, title="", settings="", unfinished=(), figures=empty)
    return [item for block in blocks if isinstance(block, Bullets) for item in block.items]


def test_a_format_reward_that_is_never_reached_is_told_as_such(tmp_path: Path) -> None:
    write_run(tmp_path / "erf-seed0", "gate=erf", "num_iterations=4", quality=0.0)
    (arm,) = arms_in(tmp_path)
    assert first_iteration_at(arm, 0.9) is None
    (speed,) = measure_claims([arm]).gates
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


@pytest.mark.parametrize(
    ("largest", "smallest", "stayed"),
    [(1.01, 0.99, True), (1.011, 1.0, False), (1.0, 0.989, False)],
)
def test_ratios_leave_one_up_or_down(tmp_path: Path, largest: float, smallest: float, *, stayed: bool) -> None:
    write_run(tmp_path / "clip-seed0", "gate=clip", ratio_max=1.0)
    (arm,) = arms_in(tmp_path)
    moved = {**arm.record.rows[5], "ratio/max": largest, "ratio/min": smallest}
    rows = (*arm.record.rows[:5], moved, *arm.record.rows[6:])
    assert stayed_at_one(replace(arm, record=replace(arm.record, rows=rows))) == stayed


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
    assert sum(pair.kind == "replayed" for pair in result.pairs) == 5


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="holds no run"):
        read_run(tmp_path)
    (tmp_path / "config.yaml").write_text("gate: 3\n")
    with pytest.raises(RecordError, match="report with the version that wrote it"):
        read_run(tmp_path)
