"""What the study command accepts, the arms it makes of it, and how it names mistakes."""

from pathlib import Path

from configs.loading import load_config
from orchestration.study.settings import PAPER_GATES, Arm, StudyConfig, plan_arms, split_settings

FOLDER = Path("runs/study-001")


def arms_of(*arguments: str) -> tuple[Arm, ...]:
    study, settings = split_settings(arguments)
    return plan_arms(study, settings, study_dir=FOLDER)


def test_the_default_grid_is_the_papers_gates_on_three_seeds_seed_by_seed() -> None:
    study, settings = split_settings([])
    arms = plan_arms(study, settings, study_dir=FOLDER)
    assert [(arm.seed, arm.gate) for arm in arms] == [(seed, gate) for seed in (0, 1, 2) for gate in PAPER_GATES]
    assert arms[0].name == "sigmoid-seed0"


def test_settings_of_the_study_and_of_its_runs_are_told_apart() -> None:
    study, settings = split_settings(["gates=[erf,clip]", "seeds=[4]", "study_dir=x", "learner.lr=1e-3", "parallel=2"])
    assert study == StudyConfig(gates=("erf", "clip"), seeds=(4,), study_dir="x", parallel=2)
    assert settings == ["learner.lr=1e-3"]
    erf, clip = plan_arms(study, settings, study_dir=FOLDER)
    assert erf.overrides == ("gate=erf", "seed=4", "learner.lr=1e-3")
    assert erf.config == load_config(erf.overrides)
    assert (clip.config.gate.name, clip.config.seed, clip.config.learner.lr) == ("clip", 4, 1e-3)


def test_arms_of_one_seed_differ_in_the_gate_only() -> None:
    first, *others = arms_of("experiment=separate_gates", "seeds=[3]")
    for other in others:
        assert other.config.model_copy(update={"gate": first.config.gate}) == first.config


def test_a_setting_of_a_gate_goes_to_the_gates_that_have_it() -> None:
    softsign, clip = arms_of("gates=[softsign,dapo]", "seeds=[0]", "gate.tau_pos=5.0", "gate.epsilon_low=0.1")
    assert softsign.overrides == ("gate=softsign", "seed=0", "gate.tau_pos=5.0")
    assert clip.overrides == ("gate=dapo", "seed=0", "gate.epsilon_low=0.1")
    (custom,) = arms_of("gates=[custom]", "seeds=[0]", "gate.factory=a:b", "gate.parameters.tau=3.0")
    assert custom.config.gate.parameters == {"tau": 3.0}  # type: ignore[union-attr]


def test_live_replayed_and_both_kinds_of_arms() -> None:
    grid = ("experiment=separate_gates", "gates=[erf,clip]", "seeds=[0]", "eval.every=5")
    live, replayed, both = (arms_of(*grid, f"arms={kind}") for kind in ("live", "replayed", "both"))
    recorder, *others = both
    assert [arm.name for arm in live] == ["erf-seed0", "clip-seed0"]
    assert [arm.name for arm in replayed] == ["erf-seed0", "erf-seed0-replayed", "clip-seed0-replayed"]
    assert [arm.name for arm in both] == ["erf-seed0", "clip-seed0", "erf-seed0-replayed", "clip-seed0-replayed"]
    assert {(arm.records, arm.replays) for arm in live} == {(None, None)}
    assert recorder.records is not None
    assert recorder.config.rollout.record == str(recorder.records)
    assert [arm.replays for arm in others] == [None, recorder.records, recorder.records]
    for arm in others[1:]:
        assert arm.config.rollout.replay == str(recorder.records)
        assert (arm.config.rollout.record, arm.config.eval.every) == (None, 0), "no engine that could evaluate"
        assert arm.config.learner == recorder.config.learner
