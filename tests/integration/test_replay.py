"""Record once, train many, and go on after a signal, on real parts and with several options of the objective at once.

One recording serves all: a run on one engine inside its actor, by which the interrupted ones are judged.
"""

import re
import shlex
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import ADAPTIVE, EIGHT, PROJECT_ROOT, CommandRun, RunCommand, leaving_no_process
from torch import equal

from rollout.recording import num_recorded

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

# Two epochs, so that ratios leave 1 and the gates differ.
SETTINGS = (
    *EIGHT,
    "learner.num_epochs=2",
    "learner.old_logprobs=recompute",
    "objective.advantage=leave_one_out",
    "objective.ratio=sequence",
    "objective.kl_coef=0.01",
    "objective.kl_estimator=k3",
    "objective.entropy_coef=0.001",
    "objective.correction=tis",
)
OWN_GATE = ("gate=power", ADAPTIVE)
OWN_PROCESS = "rollout.frontend=async"  # each engine in one
TWO_ENGINES = "rollout.num_engines=2"
# What only engines, graders and publishes measure, and what only holds where the learner's weights are theirs.
LIVE_ONLY = re.compile(r"(rollout|publish|grading|mismatch)/|time/(generate|grade|publish)_s|idle/engines")


@pytest.fixture(scope="module")
def recorded(run_command: RunCommand, tmp_path_factory: pytest.TempPathFactory) -> CommandRun:
    folder = tmp_path_factory.mktemp("recorded")
    run = run_command(folder / "run", *SETTINGS, *OWN_GATE, f"rollout.record={folder / 'groups'}")
    assert run.status == 0, run.output
    return run


@pytest.fixture(scope="module")
def groups(recorded: CommandRun) -> Path:
    return recorded.run_dir.parent / "groups"


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """A run as a signal left it, and the same run after its resume by the command that it has printed."""

    stopped: CommandRun
    num_rows: int  # of metrics, before the resume
    files: frozenset[str]  # names in the run's folder, likewise
    resumed: CommandRun


def stop_and_resume(
    run_command: RunCommand,
    run_dir: Path,
    *settings: str,
    after: int,
    number: signal.Signals,
    also: tuple[str, ...] = (),
) -> Stopped:
    """The signal to the process group `after` rows of metrics; `also`: settings of the resume."""
    with leaving_no_process():
        stopped = run_command(run_dir, *settings, "checkpoint.every=100", stop_after=after, number=number)
        assert stopped.status == 128 + number, stopped.output
        num_rows, files = len(stopped.rows()), frozenset(path.name for path in run_dir.iterdir())
        to_go_on = shlex.split(stopped.output.splitlines()[-1].removeprefix("  to go on: "))
        resumed = subprocess.run([*to_go_on, *also], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    ended = CommandRun(status=resumed.returncode, output=resumed.stdout, run_dir=run_dir)
    return Stopped(stopped=stopped, num_rows=num_rows, files=files, resumed=ended)


@pytest.fixture(scope="module")
def stopped(run_command: RunCommand, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """The recorded run again, with an end in the middle: first on one engine in a process of its own, then on two."""
    folder = tmp_path_factory.mktemp("stopped")
    settings = (*SETTINGS, *OWN_GATE, OWN_PROCESS, f"rollout.record={folder / 'groups'}")
    return stop_and_resume(run_command, folder / "run", *settings, after=4, number=signal.SIGTERM, also=(TWO_ENGINES,))


@pytest.fixture(scope="module")
def replayed(stopped: Stopped, run_command: RunCommand) -> CommandRun:
    """A replay of what that one has recorded, with an end in the middle too."""
    folder = stopped.resumed.run_dir.parent
    replay = (*SETTINGS, *OWN_GATE, f"rollout.replay={folder / 'groups'}")
    return stop_and_resume(run_command, folder / "replayed", *replay, after=2, number=signal.SIGINT).resumed


def test_another_gate_and_objective_start_from_the_same_completions(recorded: CommandRun, main_run: CommandRun) -> None:
    assert recorded.texts(0) == main_run.texts(0) != []


def test_the_options_of_the_objective_are_at_work(recorded: CommandRun) -> None:
    rows = recorded.rows()
    assert len(rows) == 8
    for row in rows:
        assert row["correction/weight_mean"] == pytest.approx(1.0, abs=1e-4), "engine and learner agree on a CPU"
        assert row["correction/clipped_share"] == 0.0
        assert row["objective/kl"] > 0.0
        assert row["ratio/log_std_within"] > row["ratio/variance"] ** 0.5, "the gate sees means of sequences"
    assert rows[2]["objective/kl"] > 4 * rows[0]["objective/kl"], "the policy moves away from the initial model"


def test_sigterm_to_the_group_saves_the_last_iteration_and_says_how_to_go_on(stopped: Stopped) -> None:
    run_dir, num_rows = stopped.stopped.run_dir, stopped.num_rows
    assert 4 <= num_rows < 8
    *_, saying, what, when, safe, log, _ = stopped.stopped.output.splitlines()
    assert saying.startswith("stopping within 20 s")
    assert what == "softgate: terminated (SIGTERM)"
    assert when.startswith(f"  in iteration {num_rows + 1} of 8, ")
    folder = run_dir / f"checkpoints/iteration-{num_rows:06d}"
    assert safe == f"  safe: the state after {num_rows} of {num_rows} iterations, {folder}"
    assert log == f"  log: {run_dir}/run.log"
    assert not stopped.files & {"curves.png", "report.html"}, "nothing is drawn after a signal"


def test_the_resume_on_two_engines_in_processes_of_their_own_equals_the_undisturbed_run_on_one_inline(
    recorded: CommandRun, stopped: Stopped
) -> None:
    resumed = stopped.resumed
    assert resumed.fixed_metrics() == recorded.fixed_metrics()
    assert resumed.texts(7) == recorded.texts(7)
    iterations = [span.start_s for span in resumed.spans() if span.name == "iteration"]
    assert len(iterations) >= 8, "those before the signal are still there"
    assert_equal_weights(resumed, recorded)
    assert num_recorded(resumed.run_dir.parent / "groups") == 8, "the recording is completed too"


def assert_equal_weights(run: CommandRun, other: CommandRun) -> None:
    weights, expected = run.weights(), other.weights()
    assert weights.keys() == expected.keys()
    assert all(equal(weights[name], expected[name]) for name in expected)


def test_a_replay_with_an_end_in_the_middle_repeats_the_run_bit_for_bit(
    recorded: CommandRun, replayed: CommandRun
) -> None:
    expected = [{k: v for k, v in row.items() if not LIVE_ONLY.match(k)} for row in recorded.fixed_metrics()]
    assert replayed.fixed_metrics() == expected
    assert {"loss", "grad_norm", "gate/eur", "reward/mean", "staleness/max"} <= expected[0].keys()
    assert replayed.texts(7) == recorded.texts(7)
    assert_equal_weights(replayed, recorded)


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
    assert [run.texts(k) for k in range(8)] == [recorded.texts(k) for k in range(8)]
    losses, others = ([row["grad_norm"] for row in some.rows()] for some in (run, recorded))
    assert all(loss != other for loss, other in zip(losses, others, strict=True))
