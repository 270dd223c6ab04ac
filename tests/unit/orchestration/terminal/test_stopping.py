"""Signals: when they are raised, what a further one does, and with which status and words a process ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partialmethod
from pathlib import Path

import psutil
import pytest

from orchestration.terminal import stopping
from orchestration.terminal.leaving import Terminated
from orchestration.terminal.stopping import Stopping

ROOT = Path(__file__).parents[4]
LONG_S = 300.0
# A command with a child in a session of its own, as Ray's processes are, which ends at its leisure.
COMMAND = """
import subprocess, sys, time
from orchestration.terminal.leaving import leave_at_once
leave_at_once()
print("early", flush=True)
if "early" in sys.argv:
    time.sleep(300)
from contextlib import nullcontext
from orchestration.terminal.exit_status import command, leave
from orchestration.terminal.stopping import Stopping, protect

@command
def main(arguments):
    with Stopping(grace_s=60):
        child = subprocess.Popen(["sleep", "300"], start_new_session=True)
        try:
            print(child.pid, flush=True)
            with protect() if "protected" in arguments else nullcontext():
                time.sleep(1 if "protected" in arguments else 300)
            time.sleep(300)
        finally:
            print("ending", flush=True)
            if "slow" in arguments:
                time.sleep(300)
            child.kill()

leave(main(sys.argv[1:]))
"""


class Command:
    """COMMAND as a process, in a process group of its own."""

    def __init__(self, *arguments: str, output: int = subprocess.PIPE) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            start_new_session=True,
        )
        self.await_line("early")

    def await_line(self, text: str) -> str:
        assert self.process.stdout is not None
        while text not in (line := self.process.stdout.readline()):
            assert line, "the command has ended"
        return line.strip()

    def start(self) -> psutil.Process:
        """Awaits the part with a child; returns the child."""
        return psutil.Process(int(self.await_line("")))

    def press(self, number: int = signal.SIGINT) -> None:
        os.killpg(self.process.pid, number)

    def end(self) -> tuple[int, str]:
        _, words = self.process.communicate(timeout=60)
        return self.process.returncode, words


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


SAYING = "stopping within 60 s; Ctrl-C again stops at once\n"
ENDS = [
    (signal.SIGINT, 130, "softgate: interrupted\n"),
    (signal.SIGTERM, 143, "softgate: terminated (SIGTERM)\n"),
    (signal.SIGHUP, 129, "softgate: hung up (SIGHUP)\n"),
]


@pytest.mark.parametrize(("number", "status", "words"), ENDS)
def test_while_nothing_has_started_a_signal_ends_the_command_with_one_line(
    number: int, status: int, words: str
) -> None:
    command = Command("early")
    command.press(number)
    assert command.end() == (status, words)


@pytest.mark.parametrize(("number", "status", "words"), ENDS)
def test_a_command_that_runs_tidies_up_and_says_the_same(number: int, status: int, words: str) -> None:
    command = Command()
    child = command.start()
    command.press(number)
    assert command.end() == (status, SAYING + words)
    assert has_ended(child)


def test_five_presses_end_at_once_and_leave_nothing() -> None:
    command = Command("slow")
    child = command.start()
    command.press()
    command.await_line("ending")
    for _ in range(4):
        time.sleep(2 * stopping.SAME_PRESS_S)
        if command.process.poll() is None:
            command.press()
    assert command.end() == (130, SAYING + "softgate: interrupted\n")
    assert has_ended(child)


def test_many_signals_of_a_machine_count_once() -> None:
    """`timeout` and a closing terminal send theirs twice or more, to the group and to the process."""
    command = Command()
    command.start()
    for _ in range(5):
        command.press(signal.SIGTERM)
        time.sleep(2 * stopping.SAME_PRESS_S)
    status, words = command.end()
    assert (status, words) == (143, SAYING + "softgate: terminated (SIGTERM)\n")


def test_a_signal_in_the_protected_part_comes_at_its_end() -> None:
    command = Command("protected")
    command.start()
    command.press()
    command.await_line("ending")
    assert command.end() == (130, SAYING + "softgate: interrupted\n")


def test_a_terminal_that_is_gone_changes_nothing() -> None:
    reader, writer = os.pipe()
    command = Command(output=writer)
    os.close(reader)
    os.close(writer)
    child = command.start()
    command.press(signal.SIGHUP)
    assert command.end()[0] == 129
    assert has_ended(child)


def test_the_signals_handlers_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with Stopping():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stopping():
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def what_ends(body: Callable[[Stopping], None]) -> BaseException:
    """The exception that leaves a block of Stopping with the body in it."""

    def run() -> None:
        with Stopping() as active:
            body(active)

    with pytest.raises(BaseException) as caught:
        run()
    return caught.value


def test_a_library_that_takes_the_signals_does_not_keep_them() -> None:
    def body(active: Stopping) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as ray.init does
        active.install()
        signal.raise_signal(signal.SIGTERM)

    assert isinstance(what_ends(body), Terminated)


def test_another_thread_wakes_the_main_one_with_its_error() -> None:
    error = ValueError("the GCS is gone")

    def body(active: Stopping) -> None:
        threading.Timer(0.1, lambda: active.fail(error)).start()
        time.sleep(LONG_S)

    start = time.monotonic()
    assert what_ends(body) is error
    assert time.monotonic() - start < LONG_S / 10


def test_the_first_reason_counts_and_replaces_what_follows_from_it() -> None:
    error = ValueError("first")

    def body(active: Stopping) -> None:
        with active.protect():
            active.fail(error)
            signal.raise_signal(signal.SIGTERM)
        pytest.fail("the end of the protected part raises")

    assert what_ends(body) is error


def test_what_a_library_makes_of_the_exception_does_not_matter() -> None:
    def body(active: Stopping) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise KeyboardInterrupt from None  # as Ray does

    assert isinstance(what_ends(body), Terminated)


def test_only_the_first_signal_is_raised_while_a_command_tidies_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "SAME_PRESS_S", 0.0)
    steps = []

    def body(active: Stopping) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            steps.append("done")

    assert type(what_ends(body)) is KeyboardInterrupt
    assert steps == ["done"]


def test_a_further_press_breaks_off_what_is_urgent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "SAME_PRESS_S", 0.0)
    steps = []

    def body(active: Stopping) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            try:
                with active.urgent():
                    signal.raise_signal(signal.SIGINT)
                    steps.append("waited")
            except KeyboardInterrupt:
                steps.append("broken off")

    assert type(what_ends(body)) is KeyboardInterrupt
    assert steps == ["broken off"]


def test_the_time_for_what_is_urgent_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that came long ago, and so the end of its grace, breaks off at once."""

    def body(active: Stopping) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            with active.urgent():
                time.sleep(LONG_S)

    start = time.monotonic()
    monkeypatch.setattr(stopping.Stopping, "__init__", partialmethod(Stopping.__init__, grace_s=0.1))
    assert isinstance(what_ends(body), Terminated)
    assert time.monotonic() - start < LONG_S / 10


def test_in_another_thread_signals_stay_as_they_are() -> None:
    handlers = []

    def run() -> None:
        with Stopping():
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [before]
