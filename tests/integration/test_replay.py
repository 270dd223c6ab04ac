"""Record once, train many, on real parts; the runs have several options of the objective at once."""

import re
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support import CommandRun, RunCommand
from torch import equal

from rollout.recording import num_recorded

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

# Two epochs, so that ratios leave 1 and the gates differ; a checkpoint in the middle for the resume.
SETTINGS = (
    "learner.num_epochs=2",
    "learner.lr_schedule=constant",
    "checkpoint.every=2",
    "learner.old_logprobs=recompute",
    "objective.advantage=leave_one_out",
    "objective.ratio=sequence",
    "objective.kl_coef=0.01",
    "objective.kl_estimator=k3",
    "objective.entropy_coef=0.001",
    "objective.correction=tis",
)
OWN_GATE = "gate=power"
# What only engines, graders and publishes measure, and what only holds where the learner's weights are theirs.
LIVE_ONLY = re.compile(r"(rollout|publish|grading|mismatch)/|time/(generate|grade|publish)_s|idle/engines")


@pytest.fixture(scope="module")
def recorded(run_command: RunCommand, tmp_path_factory: pytest.TempPathFactory) -> CommandRun:
    folder = tmp_path_factory.mktemp("recorded")
    run = run_command(folder / "run", *SETTINGS, OWN_GATE, f"rollout.record={folder / 'groups'}")
    assert run.status == 0, run.output
    return run


@pytest.fixture(scope="module")
def groups(recorded: CommandRun) -> Path:
    return recorded.run_dir.parent / "groups"


@pytest.fixture(scope="module")
def replayed(recorded: CommandRun, groups: Path, run_command: RunCommand) -> CommandRun:
    run = run_command(recorded.run_dir.parent / "replayed", *SETTINGS, OWN_GATE, f"rollout.replay={groups}")
    assert run.status == 0, run.output
    return run


def test_another_gate_and_objective_start_from_the_same_completions(recorded: CommandRun, main_run: CommandRun) -> None:
    assert recorded.texts(0) == main_run.texts(0) != []


def test_the_options_of_the_objective_are_at_work(recorded: CommandRun) -> None:
    rows = recorded.rows()
    assert len(rows) == 3
    for row in rows:
        assert row["correction/weight_mean"] == pytest.approx(1.0, abs=1e-4), "engine and learner agree on a CPU"
        assert row["correction/clipped_share"] == 0.0
        assert row["objective/kl"] > 0.0
        assert row["ratio/log_std_within"] > row["ratio/variance"] ** 0.5, "the gate sees means of sequences"
    assert rows[2]["objective/kl"] > 4 * rows[0]["objective/kl"], "the policy moves away from the initial model"


def test_a_replay_with_the_same_gate_repeats_the_run_bit_for_bit(recorded: CommandRun, replayed: CommandRun) -> None:
    expected = [{k: v for k, v in row.items() if not LIVE_ONLY.match(k)} for row in recorded.fixed_metrics()]
    assert replayed.fixed_metrics() == expected
    assert {"loss", "grad_norm", "gate/eur", "reward/mean", "staleness/max"} <= expected[0].keys()
    assert replayed.texts(2) == recorded.texts(2)
    weights, original = (load_file(run.run_dir / "model/model.safetensors") for run in (replayed, recorded))
    assert all(equal(weights[name], original[name]) for name in original)


def test_a_replay_starts_no_engine_and_measures_nothing_of_one(recorded: CommandRun, replayed: CommandRun) -> None:
    assert {name for row in recorded.rows() for name in row if LIVE_ONLY.match(name)} > {"mismatch/kl", "publish/bytes"}
    assert not [name for row in replayed.rows() for name in row if LIVE_ONLY.match(name)]
    assert "1 learner rank(s)" in replayed.output
    assert "engine" not in replayed.output
    assert not (replayed.run_dir / "eval.jsonl").exists()


def test_another_gate_starts_alike_and_learns_something_else(
    recorded: CommandRun, groups: Path, run_command: RunCommand, tmp_path: Path, no_process_left: None
) -> None:
    run = run_command(tmp_path / "run", *SETTINGS, "gate=clip", f"rollout.replay={groups}")
    assert run.status == 0, run.output
    assert [run.texts(k) for k in range(3)] == [recorded.texts(k) for k in range(3)]
    losses, others = ([row["grad_norm"] for row in some.rows()] for some in (run, recorded))
    assert all(loss != other for loss, other in zip(losses, others, strict=True))


def test_an_interrupted_recording_is_completed_by_its_resume_and_a_replay_resumes_too(
    recorded: CommandRun, replayed: CommandRun, groups: Path, run_command: RunCommand, tmp_path: Path
) -> None:
    record = (*SETTINGS, OWN_GATE, f"rollout.record={tmp_path / 'groups'}")
    stopped = run_command(tmp_path / "run", *record, interrupt_after=2)
    assert stopped.status == 130, stopped.output
    resumed = run_command(tmp_path / "run", *record, "resume=true")
    assert resumed.status == 0, resumed.output
    assert num_recorded(tmp_path / "groups") == 3
    assert resumed.fixed_metrics() == recorded.fixed_metrics()
    weights, expected = (load_file(run.run_dir / "model/model.safetensors") for run in (resumed, recorded))
    assert all(equal(weights[name], expected[name]) for name in expected)

    replay = (*SETTINGS, OWN_GATE, f"rollout.replay={tmp_path / 'groups'}")
    stopped = run_command(tmp_path / "replayed", *replay, interrupt_after=2)
    assert stopped.status == 130, stopped.output
    resumed = run_command(tmp_path / "replayed", *replay, "resume=true")
    assert resumed.status == 0, resumed.output
    assert resumed.fixed_metrics() == replayed.fixed_metrics()
