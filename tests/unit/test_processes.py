"""Whose processes the check for left-over ones counts: all of the session's, whatever they do, and nobody else's."""

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import psutil
import pytest
from processes import MARK, MARKED_LIMIT, actor_processes, leaving_no_process, started_processes

SLEEP = "import sys, time; print(flush=True); sys.stdin.read()"
HIDDEN = "import ctypes; ctypes.CDLL(None).prctl(4, 0); " + SLEEP  # its environment cannot be read
# Its title overwrites the environment, as those of Ray's workers do.
TITLED = "import ray._raylet; ray._raylet.setproctitle('ray::RolloutEngine'); " + SLEEP
ORPHAN = (
    "import os, subprocess, sys\n"
    f"subprocess.Popen([sys.executable, '-c', {SLEEP!r}, 'raylet'], start_new_session=True, env={{}})\n"
)


@pytest.fixture
def mark() -> Iterator[int]:
    """A mark that this process has during the test, in place of that of the session."""
    before = resource.getrlimit(MARKED_LIMIT)
    resource.setrlimit(MARKED_LIMIT, (mark := before[1] - 1, before[1]))
    yield mark
    resource.setrlimit(MARKED_LIMIT, before)


@pytest.fixture
def ending() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def start(program: str, ending: ExitStack, **settings: Any) -> "subprocess.Popen[bytes]":
    """Starts a Python that is ready on return and sleeps until the end of the test, as do its children."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", program, "ray::RolloutEngine"], **pipes, **settings)
    ending.callback(process.wait, timeout=60)
    ending.callback(process.communicate)
    process.stdout.readline()
    return process


@pytest.mark.parametrize("program", [SLEEP, HIDDEN, TITLED])
@pytest.mark.parametrize("environment", [None, {}])
def test_a_process_of_the_session_is_found(
    program: str, environment: dict[str, str] | None, mark: int, ending: ExitStack
) -> None:
    started = start(program, ending, env=environment, start_new_session=True)
    assert started.pid in {process.pid for process in started_processes(mark)}


def test_what_an_ended_process_of_the_session_has_started_is_found(mark: int, ending: ExitStack) -> None:
    parent = start(ORPHAN, ending, start_new_session=True)
    assert parent.wait(timeout=60) == 0
    (orphan,) = [process for process in started_processes(mark) if process.command.endswith("raylet")]
    assert psutil.Process(orphan.pid).ppid() != parent.pid


def test_a_process_of_another_run_is_not_counted_whatever_its_name(mark: int, ending: ExitStack) -> None:
    _, most = resource.getrlimit(MARKED_LIMIT)
    foreign = start(SLEEP, ending, preexec_fn=lambda: resource.setrlimit(MARKED_LIMIT, (mark - 1, most)))
    assert "ray::RolloutEngine" in " ".join(psutil.Process(foreign.pid).cmdline())
    assert foreign.pid not in {process.pid for process in started_processes(mark)}


def test_a_process_id_that_is_used_again_is_another_process(mark: int, ending: ExitStack) -> None:
    started = start(SLEEP, ending)
    (found,) = [process for process in started_processes(mark) if process.pid == started.pid]
    assert found.started_at <= time.time()
    assert {found} - {replace(found, started_at=found.started_at - 1.0)} == {found}


def test_a_process_that_has_ended_and_that_nobody_has_waited_for_is_not_counted(mark: int, ending: ExitStack) -> None:
    started = start(SLEEP, ending)
    started.terminate()
    while psutil.Process(started.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert started.pid not in {process.pid for process in started_processes(mark)}


def test_the_check_fails_for_a_process_that_is_left_and_not_for_that_of_another_run(
    mark: int, ending: ExitStack
) -> None:
    _, most = resource.getrlimit(MARKED_LIMIT)
    with leaving_no_process(mark, timeout_s=0.0):
        start(TITLED, ending, preexec_fn=lambda: resource.setrlimit(MARKED_LIMIT, (mark - 1, most)))
    with pytest.raises(AssertionError, match="ray::RolloutEngine"), leaving_no_process(mark, timeout_s=0.0):
        start(TITLED, ending)
    assert len(actor_processes(mark)) == 1
    with leaving_no_process(mark, timeout_s=0.0):
        """What was there before is not left behind by what is inside."""


def test_this_process_is_marked_once_under_either_name_of_the_module() -> None:
    from tests.processes import MARK as OTHER_MARK

    assert OTHER_MARK == MARK == resource.getrlimit(MARKED_LIMIT)[0]
