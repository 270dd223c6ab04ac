"""The block at an early end of a run, and disks that take no more."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.loading import ConfigError
from orchestration.placement import PlacementError
from orchestration.terminal import disk
from orchestration.terminal.disk import disk_fault
from orchestration.terminal.ending import Ending, Progress
from orchestration.terminal.leaving import Terminated
from orchestration.terminal.stopping import Stopping

ROOT = Path(__file__).parents[4]
PROGRESS = Progress(
    place="iteration 3 of 8", safe="the state after 2 of 2 iterations, /run/checkpoints/2", command="run.py"
)
# A run whose log is on a full disk from the start, and that a full disk ends, or something else.
FULL = """
import os, sys
from pathlib import Path
from orchestration.journal.json_lines import append_rows
from orchestration.terminal.console import print_line, redirect_output
from orchestration.terminal.ending import Ending, Progress
from orchestration.terminal.exit_status import command, leave
from orchestration.terminal.stopping import Stopping

@command
def main(arguments):
    folder = Path(arguments[0])
    progress = Progress(place="iteration 3 of 8", safe="the state after 2 iterations", command="run.py")
    with Stopping() as stopping:
        ending = Ending(stopping, log=folder / "run.log", progress=lambda: progress)
        with redirect_output(folder / "run.log") as console, ending:
            print_line(console, "begun")
            print("a library's words" * 10_000)
            print("and more", file=sys.stderr, flush=True)
            os.system("echo from a child")
            if arguments[1] == "metrics":
                append_rows(folder / "metrics.jsonl", [{"iteration": 2}])
            raise KeyError("a mistake of ours")

leave(main(sys.argv[1:]))
"""


def block(error: BaseException, *, folder: Path, progress: Progress | None = PROGRESS) -> list[str]:
    return Ending(Stopping(), log=folder / "run.log", progress=lambda: progress).lines(error)


def test_the_block_says_what_when_what_is_safe_where_and_how_to_go_on(tmp_path: Path) -> None:
    what, when, *rest = block(PlacementError("engine 1\n is gone"), folder=tmp_path)
    assert what == "softgate: engine 1 is gone"
    assert when.startswith("  in iteration 3 of 8, 20")
    assert when.endswith(", 0 s after the start")
    assert rest == [
        "  safe: the state after 2 of 2 iterations, /run/checkpoints/2",
        f"  log: {tmp_path}/run.log",
        "  to go on: run.py",
    ]


def test_what_has_not_begun_needs_no_block(tmp_path: Path) -> None:
    lines = block(PlacementError("too small"), folder=tmp_path, progress=None)
    assert lines == ["softgate: too small", f"  log: {tmp_path}/run.log"]
    assert block(ConfigError(["a: b", "c: d"]), folder=tmp_path) == ["a: b\nc: d"]


def test_an_error_that_is_not_ours_is_named_and_its_traceback_is_in_the_log(tmp_path: Path) -> None:
    assert block(KeyError("x"), folder=tmp_path)[0] == "softgate: KeyError: 'x' (its traceback is in the log)"
    assert block(Terminated(15), folder=tmp_path)[0] == "softgate: terminated (SIGTERM)"


def test_the_first_error_is_told_once_and_comes_out(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    stopping = Stopping()
    ending = Ending(stopping, log=tmp_path / "run.log", progress=lambda: PROGRESS)

    def run() -> None:
        with stopping, ending:
            try:
                with ending:
                    raise PlacementError("first")
            finally:
                assert capfd.readouterr().err.startswith("softgate: first\n"), "before anything else is tidied up"
                raise OSError("the report cannot be drawn")

    with pytest.raises(PlacementError, match="first"):
        run()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("target", "first"),
    [
        ("metrics", "softgate: disk full: {}/metrics.jsonl cannot be written (No space left on device)"),
        ("mistake", "softgate: KeyError: 'a mistake of ours' (its traceback is in the log)"),
    ],
)
def test_a_full_disk_hides_neither_itself_nor_another_error(target: str, first: str, tmp_path: Path) -> None:
    for name in ("run.log", "metrics.jsonl"):
        (tmp_path / name).symlink_to("/dev/full")
    command = [sys.executable, "-c", FULL, str(tmp_path), target]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    lines = ended.stderr.splitlines()
    assert (ended.returncode, ended.stdout) == (1, "begun\n"), ended.stderr
    assert lines[0] == first.format(tmp_path)
    assert lines[-1] == "  to go on: run.py"
    assert len(lines) == 5


def test_output_that_nothing_takes_does_not_change_how_a_command_ends(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "orchestration/run.py", "dry_run=true"]
        ended = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300)
    assert ended.returncode == 1, "what was asked for was not printed"
    assert ended.stderr.startswith("softgate: disk full: [Errno 28] No space left on device")
    assert len(ended.stderr.splitlines()) == 1


def of_os(number: int, path: str | None = "/run/metrics.jsonl") -> OSError:
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (of_os(errno.ENOSPC), "disk full: /run/metrics.jsonl cannot be written (No space left on device)"),
        (of_os(errno.EDQUOT), "disk quota exceeded: /run/metrics.jsonl cannot be written (Disk quota exceeded)"),
        (of_os(errno.EROFS), "disk read-only: /run/metrics.jsonl cannot be written (Read-only file system)"),
        (of_os(errno.EIO), "disk error: /run/metrics.jsonl cannot be written (Input/output error)"),
        (
            PlacementError("save: learner rank 1: SafetensorError: No space left on device (os error 28)"),
            "disk full: save: learner rank 1: SafetensorError: No space left on device (os error 28)",
        ),
        (of_os(errno.ENOENT), None),
        (PlacementError("too small"), None),
        (KeyboardInterrupt(), None),
    ],
)
def test_a_disks_faults_are_told_from_others(error: BaseException, line: str | None, tmp_path: Path) -> None:
    assert disk_fault(error, folder=tmp_path) == line


def test_a_fault_counts_that_another_error_came_from(tmp_path: Path) -> None:
    def raise_both() -> None:
        try:
            raise of_os(errno.ENOSPC)
        except OSError as cause:
            raise PlacementError("rank 0 failed") from cause

    with pytest.raises(PlacementError) as caught:
        raise_both()
    line = "disk full: /run/metrics.jsonl cannot be written (No space left on device)"
    assert disk_fault(caught.value, folder=tmp_path) == line


def test_a_disk_without_room_explains_what_torch_says_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unclear = PlacementError("save: learner rank 0: RuntimeError: unexpected pos 704 vs 598")
    assert disk_fault(unclear, folder=tmp_path) is None
    room: Callable[[Path], int] = lambda path: 0 if path == tmp_path else 1 << 40  # noqa: E731
    monkeypatch.setattr(disk, "_room", room)
    assert disk_fault(unclear, folder=tmp_path) == f"disk full: no room is left on the disk of {tmp_path} ({unclear})"
