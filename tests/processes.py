"""The processes that one session of tests or of chaos has started, told from all others of the machine.

Importing this module marks the session's process by a resource limit that nothing here uses, and the kernel hands the
limit on to every descendant: over setsid, the death of a parent and a new environment. Ray's workers need this, because
their titles overwrite the environment that /proc shows.
"""

import os
import resource
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

MARKED_LIMIT = resource.RLIMIT_MSGQUEUE  # bytes of POSIX message queues
MARK_VARIABLE = "SOFTGATE_TEST_MARK"  # variable with the mark and the process that it belongs to
USUAL_LIMIT = 819_200  # Linux's own, where a machine has none
ACTOR_NAMES = ("raylet", "gcs_server", "ray::", "VLLM::", "rollout.rewards.")
LEAVE_TIMEOUT_S = 30.0  # a process's end after that of the command, on a busy machine


@dataclass(frozen=True, kw_only=True, slots=True)
class StartedProcess:
    """A living process; one that is given the same id later differs in its start."""

    pid: int
    started_at: float  # unix time
    command: str


def mark_descendants() -> int:
    """Marks this process and all that it will start, once, and returns the mark."""
    owner, _, known = os.environ.get(MARK_VARIABLE, "").partition(":")
    if owner == str(os.getpid()):  # this module has two names: `processes` in tests, `tests.processes` in chaos
        return int(known)
    _, most = resource.getrlimit(MARKED_LIMIT)
    mark = secrets.randbelow(USUAL_LIMIT if most == resource.RLIM_INFINITY else most)
    resource.setrlimit(MARKED_LIMIT, (mark, most))
    os.environ[MARK_VARIABLE] = f"{os.getpid()}:{mark}"
    return mark


MARK = mark_descendants()


def started_processes(mark: int = MARK) -> set[StartedProcess]:
    """The living processes with this mark."""
    found = set()
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.rlimit(MARKED_LIMIT)[0] == mark:
                command = " ".join(filter(None, process.cmdline()))
                found.add(StartedProcess(pid=process.pid, started_at=process.create_time(), command=command))
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has just ended, or is another user's
            continue
    return found


def actor_processes(mark: int = MARK) -> set[StartedProcess]:
    """Processes of Ray, vLLM and graders among them, without the Ray of this process: it starts workers as it likes."""
    own = [child for child in psutil.Process().children() if child.name() in ("raylet", "gcs_server")]
    of_own = {each.pid for child in own for each in (child, *child.children(recursive=True))}
    found = started_processes(mark)
    return {each for each in found if each.pid not in of_own and any(name in each.command for name in ACTOR_NAMES)}


@contextmanager
def leaving_no_process(mark: int = MARK, *, timeout_s: float = LEAVE_TIMEOUT_S) -> Iterator[None]:
    """Fails if what is inside leaves a process of Ray, vLLM or a grader behind for long."""
    before = actor_processes(mark)
    yield
    deadline = time.monotonic() + timeout_s
    while (left := actor_processes(mark) - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left, [process.command for process in left]
