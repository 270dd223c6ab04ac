"""Record once, train many, and go on after a signal, a full disk, damage; with several options of the objective.

Real parts. One recording serves all: a run on one engine inside its actor, by which the interrupted ones are judged.
"""

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from processes import leaving_no_process
from small_disk import SmallDisk, small_disk
from support import (
    ADAPTIVE,
    COMMAND_TIMEOUT_S,
    EIGHT,
    PROJECT_ROOT,
    CommandRun,
    RunCommand,
    await_rows,
    wait_until,
)
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
CHECKPOINT_BYTES = 3_600_000  # of the small model
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


def refused_a_second_time(command: list[str], process: int) -> None:
    """The same resume while it lives; it would move the living run's rows away and delete its checkpoints."""
    second = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    assert (second.returncode, second.stdout) == (2, ""), second.stderr
    (line,) = second.stderr.splitlines()
    assert f": is in use by process {process} on " in line


def command_to_go_on(ended: CommandRun) -> list[str]:
    """The command that the run has named at its early end."""
    (command,) = re.findall(r"^  to go on: (.*)$", ended.output, flags=re.MULTILINE)
    return shlex.split(command)


def terminate(driver: int) -> None:
    os.killpg(driver, signal.SIGTERM)  # Slurm sends it to every process of a job step


def stop_and_resume(
    run_command: RunCommand,
    run_dir: Path,
    *settings: str,
    after: int,
    stop: Callable[[int], None],
    status: int,
    also: tuple[str, ...] = (),
) -> Stopped:
    """Stopped `after` rows, then continued by the command that it names; `also`: its settings."""
    with leaving_no_process():
        stopped = run_command(run_dir, *settings, interrupt_after=after, interrupt=stop)
        assert stopped.status == status, stopped.output
        num_rows, files = len(stopped.rows()), frozenset(path.name for path in run_dir.iterdir())
        command = [*command_to_go_on(stopped), *also]
        process = subprocess.Popen(
            command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert wait_until(lambda: list(run_dir.glob(".owner-*")) or process.poll() is not None)
        refused_a_second_time(command, process.pid)
        output, _ = process.communicate(timeout=COMMAND_TIMEOUT_S)
        assert process.returncode == 0, output
    ended = CommandRun(status=process.returncode, output=output, run_dir=run_dir)
    return Stopped(stopped=stopped, num_rows=num_rows, files=files, resumed=ended)


@pytest.fixture(scope="module")
def stopped(run_command: RunCommand, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    """The recorded run again, with an end in the middle: first on one engine in a process of its own, then on two."""
    folder = tmp_path_factory.mktemp("stopped")
    settings = (*SETTINGS, *OWN_GATE, OWN_PROCESS, f"rollout.record={folder / 'groups'}")
    settings += ("checkpoint.every=100",)  # the signal alone makes it save
    return stop_and_resume(
        run_command, folder / "run", *settings, after=4, stop=terminate, status=143, also=(TWO_ENGINES,)
    )


def flip_a_bit(checkpoint: Path) -> None:
    """In the middle of the checkpoint's tensors."""
    (path,) = checkpoint.glob("*.safetensors")
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 16]))


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """A replay on a disk that was full twice, and that a bit of the newest checkpoint flipped on."""

    full: tuple[CommandRun, CommandRun]  # ended by a checkpoint that has no room, by a row that has none
    refused: CommandRun  # a resume without room
    resumed: CommandRun


def fill_during_iteration(disk: SmallDisk, num_rows: int, process: "subprocess.Popen[str]") -> None:
    await_rows(disk.seen(disk.path / "run/metrics.jsonl"), num_rows, process)
    disk.fill()


@pytest.fixture(scope="module")
def replayed(stopped: Stopped, run_command: RunCommand, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replayed]:
    """A replay of what that one has recorded. It begins with room for two checkpoints, and fails at the third."""
    settings = (*SETTINGS, *OWN_GATE, f"rollout.replay={stopped.resumed.run_dir.parent / 'groups'}")
    with small_disk(tmp_path_factory.mktemp("replayed") / "disk", megabytes=96) as disk, leaving_no_process():
        run = partial(run_command, disk.path / "run", *settings, disk=disk)
        short = ("num_iterations=3", "checkpoint.every=1")
        at_checkpoint = run(*short, meanwhile=lambda _: disk.fill(leaving=5 * CHECKPOINT_BYTES // 2))
        refused = run("resume=true")
        disk.make_room()
        at_row = run("checkpoint.every=100", "resume=true", meanwhile=partial(fill_during_iteration, disk, 5))
        disk.make_room()
        flip_a_bit(at_row.run_dir / "checkpoints/iteration-000002")
        command = [*command_to_go_on(at_row), "checkpoint.every=3"]
        last = subprocess.run(
            disk.command(command, folder=PROJECT_ROOT), capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
        )
        assert last.returncode == 0, last.stdout + last.stderr
        resumed = CommandRun(status=last.returncode, output=last.stdout, run_dir=at_row.run_dir)
        yield Replayed(full=(at_checkpoint, at_row), refused=refused, resumed=resumed)


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
    *lines, what, when, safe, log, _ = stopped.stopped.output.splitlines()
    assert len([line for line in lines if line.startswith("stopping within 20 s")]) == 1
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


def test_a_full_disk_is_named_with_what_is_safe_and_how_to_go_on(replayed: Replayed) -> None:
    causes = (
        r"checkpoint: learner rank 0: .*No space left on device.*",
        r".*/run/[a-z]+\.\w+ cannot be written \(No space left on device\)",
    )
    for run, cause in zip(replayed.full, causes, strict=True):
        assert run.status == 1, run.output
        assert "Traceback" not in run.output
        lines = run.output.splitlines()
        begin = next(place for place, line in enumerate(lines) if line.startswith("softgate: "))
        what, _, safe, log, to_go_on = lines[begin : begin + 5]
        assert re.fullmatch(f"softgate: disk full: {cause}", what)
        assert re.fullmatch(r"  safe: the state after 2 of \d iterations, .*/run/checkpoints/iteration-000002", safe)
        assert (log.startswith("  log: "), to_go_on.startswith("  to go on: ")) == (True, True)
    assert replayed.refused.status == 2
    (line,) = replayed.refused.output.splitlines()
    assert re.match(r"run_dir=.*/run: \d.* free in .*, .* needed for \d checkpoint\(s\) and the model; make room", line)


def assert_equal_weights(run: CommandRun, other: CommandRun) -> None:
    weights, expected = run.weights(), other.weights()
    assert weights.keys() == expected.keys()
    assert all(equal(weights[name], expected[name]) for name in expected)


def test_a_replay_with_two_ends_and_a_flipped_bit_repeats_the_run_bit_for_bit(
    recorded: CommandRun, replayed: Replayed
) -> None:
    resumed = replayed.resumed
    expected = [{k: v for k, v in row.items() if not LIVE_ONLY.match(k)} for row in recorded.fixed_metrics()]
    assert resumed.fixed_metrics() == expected
    assert {"loss", "grad_norm", "gate/eur", "reward/mean", "staleness/max"} <= expected[0].keys()
    assert resumed.texts(7) == recorded.texts(7)
    assert_equal_weights(resumed, recorded)
    skipped = "iteration-000002 is skipped: learner-0000-0000.safetensors differs from what was written"
    assert skipped in " ".join(resumed.output.split())
    names = [path.name for path in (resumed.run_dir / "checkpoints").iterdir()]
    assert sorted(names) == ["iteration-000002.damaged-1", "iteration-000006", "iteration-000008"]


def test_a_replay_starts_no_engine_and_measures_nothing_of_one(recorded: CommandRun, replayed: Replayed) -> None:
    assert {name for row in recorded.rows() for name in row if LIVE_ONLY.match(name)} > {"mismatch/kl", "publish/bytes"}
    resumed = replayed.resumed
    assert not [name for row in resumed.rows() for name in row if LIVE_ONLY.match(name)]
    assert "1 learner rank(s)" in resumed.output
    assert "engine" not in resumed.output
    assert not (resumed.run_dir / "eval.jsonl").exists()


def test_another_gate_starts_alike_and_learns_something_else(
    recorded: CommandRun, groups: Path, run_command: RunCommand, tmp_path: Path, no_process_left: None
) -> None:
    run = run_command(tmp_path / "run", *SETTINGS, "gate=clip", f"rollout.replay={groups}")
    assert run.status == 0, run.output
    assert [run.texts(k) for k in range(8)] == [recorded.texts(k) for k in range(8)]
    losses, others = ([row["grad_norm"] for row in some.rows()] for some in (run, recorded))
    assert all(loss != other for loss, other in zip(losses, others, strict=True))
