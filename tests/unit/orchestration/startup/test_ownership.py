"""One owner for a folder, with real processes: on a local file system, and where only the lease counts.

A file system without trusted locks is played by an empty list of local file systems, another machine by another boot.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from machine import slowdown

from configs.loading import ConfigError
from orchestration.startup import ownership
from orchestration.startup.ownership import OwnershipLostError, file_system, own, this_process

ROOT = Path(__file__).resolve().parents[4]
OWNING = """
import subprocess, sys, time
from dataclasses import replace
from pathlib import Path
from orchestration.startup import ownership
ownership.HEARTBEAT_S = {heartbeat_s}
if not {is_local}:
    ownership.LOCAL_FILE_SYSTEMS = frozenset()
here = ownership.this_process()
ownership.this_process = lambda: replace(here, boot={boot!r} or here.boot)
with ownership.own(Path({folder!r}), setting="run_dir"):
    child = subprocess.Popen(["sleep", "600"], stdin=-3, stdout=-3, stderr=-3)
    print(child.pid, flush=True)
    sys.stdin.readline()
    child.kill()
    child.wait()
"""


class OwningProcess:
    """A process that owns a folder until it is told to end, with a child of its own."""

    def __init__(self, folder: Path, *, is_local: bool, boot: str = "", heartbeat_s: float = 0.1) -> None:
        program = OWNING.format(folder=str(folder), is_local=is_local, boot=boot, heartbeat_s=heartbeat_s)
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.child = int(self.process.stdout.readline())

    def end(self) -> str:
        """Lets it end; returns its standard error."""
        return self.process.communicate("\n", timeout=300)[1]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=300)

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)


Start = Callable[..., OwningProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[OwningProcess] = []

    def begin(folder: Path, **settings: object) -> OwningProcess:
        started.append(OwningProcess(folder, **settings))  # type: ignore[arg-type]
        return started[-1]

    yield begin
    for each in started:
        each.process.send_signal(signal.SIGCONT)
        each.process.kill()
        each.process.wait()
        with suppress(ProcessLookupError):
            os.kill(each.child, signal.SIGKILL)


@pytest.fixture
def only_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "LOCAL_FILE_SYSTEMS", frozenset())


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught, own(folder, setting="run_dir"):
        pass
    (line,) = caught.value.lines
    return line


def test_the_tests_run_on_a_local_file_system(tmp_path: Path) -> None:
    assert file_system(tmp_path) in ownership.LOCAL_FILE_SYSTEMS
    assert file_system(Path("/proc/self")) == "proc"


@pytest.mark.parametrize("is_local", [True, False])
def test_a_second_owner_is_refused_at_once_with_the_first_named(
    tmp_path: Path, start: Start, request: pytest.FixtureRequest, *, is_local: bool
) -> None:
    if not is_local:
        request.getfixturevalue("only_leases")
    folder = tmp_path / "run"
    first = start(folder, is_local=is_local, heartbeat_s=100.0)
    began = time.monotonic()
    line = refusal(folder)
    assert time.monotonic() - began < 1.0 * slowdown()
    host = this_process().host
    assert line.startswith(f"run_dir={folder}: is in use by process {first.process.pid} on {host}, since 20")
    first.pause()  # as by Ctrl-Z: it is still the owner
    assert f"process {first.process.pid} on" in refusal(folder)
    first.process.send_signal(signal.SIGCONT)
    assert first.end() == ""
    with own(folder, setting="run_dir") as notices:
        assert notices == ()
    assert not folder.exists(), "nothing is left of either"


@pytest.mark.parametrize("is_local", [True, False])
def test_a_killed_owner_is_taken_over_at_once_although_its_child_lives(
    tmp_path: Path, start: Start, request: pytest.FixtureRequest, *, is_local: bool
) -> None:
    if not is_local:
        request.getfixturevalue("only_leases")
    first = start(tmp_path, is_local=is_local)
    first.kill()
    os.kill(first.child, 0)
    began = time.monotonic()
    with own(tmp_path, setting="run_dir") as notices:
        assert time.monotonic() - began < 1.0 * slowdown()
        (notice,) = notices
        assert notice.startswith(f"run_dir={tmp_path}: taken over from process {first.process.pid} on ")
        assert "is in use by" in refusal(tmp_path), "this process is now the owner"
    assert list(tmp_path.iterdir()) == []


def test_a_lease_counts_on_a_local_file_system_too_which_other_machines_may_share(tmp_path: Path, start: Start) -> None:
    first = start(tmp_path, is_local=False, boot="another machine")
    assert f"process {first.process.pid} on" in refusal(tmp_path)


@pytest.mark.usefixtures("only_leases")
def test_an_owner_on_another_machine_is_recognized_by_its_heartbeat(tmp_path: Path, start: Start) -> None:
    first = start(tmp_path, is_local=False, boot="another machine")
    assert f"process {first.process.pid} on" in refusal(tmp_path)
    first.kill()
    ages = [path.stat().st_mtime for path in tmp_path.glob(".owner-*")]
    os.utime(tmp_path / ".owner-1", (ages[0] - 61.0,) * 2)
    began = time.monotonic()
    with own(tmp_path, setting="run_dir") as notices:
        assert "taken over" in notices[0]
    assert time.monotonic() - began < 1.0 * slowdown(), "silent for longer than the limit: no wait"


@pytest.mark.usefixtures("only_leases")
def test_a_dead_owner_on_another_machine_is_awaited_until_the_limit(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ownership, "SILENCE_S", 1.0)
    monkeypatch.setattr(ownership, "HEARTBEAT_S", 0.1)
    first = start(tmp_path, is_local=False, boot="another machine", heartbeat_s=100.0)
    os.utime(tmp_path / ".owner-1")
    first.kill()
    with own(tmp_path, setting="run_dir") as notices:
        assert len(notices) == 1
    told = capsys.readouterr().err
    assert told.startswith("waiting 1 s for a sign of life of process ")
    assert len(told.splitlines()) == 1


@pytest.mark.usefixtures("only_leases")
def test_who_was_paused_for_too_long_and_taken_over_ends_with_an_error(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "SILENCE_S", 0.5)
    first = start(tmp_path, is_local=False, boot="another machine")
    first.pause()
    with own(tmp_path, setting="run_dir") as notices:
        assert len(notices) == 1
        first.process.send_signal(signal.SIGCONT)
        first.process.wait(timeout=300)  # it ends by itself; communicate() would end it by closing its input
        assert first.process.stderr is not None
        told = first.process.stderr.read()
        assert "OwnershipLostError" in told.splitlines()[-1]
        assert f"was taken over by process {os.getpid()} on " in told.splitlines()[-1]
        assert [path.name for path in tmp_path.iterdir()] == [".owner-2"], "and leaves the new owner's lease"


def test_a_deleted_folder_ends_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "HEARTBEAT_S", 0.05)
    errors: list[BaseException] = []
    lost = threading.Event()

    def note(error: BaseException) -> None:
        errors.append(error)
        lost.set()

    with own(tmp_path, setting="run_dir", on_lost=note):
        (tmp_path / ".owner-1").unlink()
        assert lost.wait(60.0)
    (error,) = errors
    assert isinstance(error, OwnershipLostError)
    assert str(error) == f"run_dir={tmp_path}: was deleted; the command ends"


@pytest.mark.parametrize("is_local", [True, False])
def test_of_many_that_claim_at_once_one_owns(tmp_path: Path, *, is_local: bool) -> None:
    """Each tries until it has owned the folder; a counter that is read, awaited and written shows any overlap."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    program = (
        "import sys, time; from pathlib import Path; from configs.loading import ConfigError\n"
        "from orchestration.startup import ownership\n"
        f"if not {is_local}: ownership.LOCAL_FILE_SYSTEMS = frozenset()\n"
        f"folder, counter, done = Path({str(tmp_path / 'run')!r}), Path({str(counter)!r}), 0\n"
        "while done < 5:\n"
        "    try:\n"
        "        with ownership.own(folder, setting='run_dir'):\n"
        "            count = int(counter.read_text()); time.sleep(0.005); counter.write_text(str(count + 1))\n"
        "            done += 1\n"
        "    except ConfigError:\n"
        "        time.sleep(0.001)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [subprocess.Popen([sys.executable, "-c", program], env=environment) for _ in range(4)]
    assert [process.wait(timeout=300) for process in processes] == [0] * 4
    assert counter.read_text() == "20"
    assert list(tmp_path.glob("run/*")) == []


def test_a_process_id_that_was_used_again_is_not_the_owner(tmp_path: Path) -> None:
    with own(tmp_path, setting="run_dir"):
        lease = (tmp_path / ".owner-1").read_text()
    (tmp_path / ".owner-1").write_text(lease.replace(f'"start": {this_process().start}', '"start": 1'))
    with own(tmp_path, setting="run_dir") as notices:
        assert f"process {os.getpid()} on " in notices[0]
