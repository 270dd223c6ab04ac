"""The parent of a process that runs untrusted work: it outlives that process and ends whatever the process started.

In: descriptor 0, which closes when the work is no longer wanted; limits. Out: an exit status that says how the work
ended. Descendants whose own parent has ended become children of this process, so that no daemon escapes it. Knows
nothing of rewards. Linux only.
"""

import ctypes
import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

OUT_OF_MEMORY_STATUS, TOO_MANY_PROCESSES_STATUS = 77, 78  # exit statuses after a limit
SIGNAL_STATUS = 128  # exit status after a signal, less the signal's number
LIFELINE = 0  # file descriptor
WATCH_S = 0.05  # time between two looks at the limits
KILL_PAUSE_S = 0.002
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # of <sys/prctl.h>


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits on the work and all its descendants together."""

    memory_bytes: int
    max_processes: int  # most descendants of the work's own process

    def exceeded(self) -> int | None:
        """The exit status for a limit that is exceeded now."""
        work, *others = descendants() or [0]
        if len(others) > self.max_processes:
            return TOO_MANY_PROCESSES_STATUS
        # Resident sizes count shared pages several times; the exact sum takes longer to find.
        exceeds = others and all(
            sum(map(size, [work, *others])) > self.memory_bytes for size in (_resident_bytes, _proportional_bytes)
        )
        return OUT_OF_MEMORY_STATUS if exceeds else None


def run_supervised(work: Callable[[], None], *, limits: Limits | None, of_work: int) -> NoReturn:
    """Runs the work in a process of its own and ends this one after it.

    limits: None where the work starts no processes, which then are not counted. of_work: descriptor that only the work
    keeps, so that its end is seen at the other end.
    """
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        raise RuntimeError("this kernel has no /proc/<pid>/task/<tid>/children; use one with CONFIG_PROC_CHILDREN")
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    _prctl(PR_SET_PDEATHSIG, signal.SIGCONT)  # or, stopped, it would not see that the lifeline has closed
    wake, signalled = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(signalled, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
    supervisor, child = os.getpid(), os.fork()
    if child == 0:
        signal.set_wakeup_fd(-1)
        os.close(wake)
        os.close(signalled)
        _work_below(supervisor, work)
    os.close(of_work)
    status = None
    while status is None:
        readable, _, _ = select.select([LIFELINE, wake], [], [], None if limits is None else WATCH_S)
        if wake in readable:
            os.read(wake, 4096)
        status = 0 if LIFELINE in readable else _status_of(child)
        if status is None and limits is not None:
            status = limits.exceeded()
    end_descendants()
    os._exit(status)


def _work_below(supervisor: int, work: Callable[[], None]) -> NoReturn:
    """The process of the work, which ends with the supervisor at the latest."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()  # or a reward that signals its own process group would reach the supervisor
        os.close(LIFELINE)
        os.open(os.devnull, os.O_RDONLY)  # takes the lowest number, that of the lifeline
        if os.getppid() == supervisor:
            work()
        status = 0
    except BaseException:  # noqa: BLE001  whatever it is, this copy of the process ends here
        traceback.print_exc()
    finally:
        os._exit(status)


def end_descendants() -> None:
    """Kills and reaps all descendants; returns when none is left."""
    while True:
        for process_id in descendants():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process_id, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(KILL_PAUSE_S)


def descendants() -> list[int]:
    """All processes that descend from this one, its own children first.

    One that is born or ends meanwhile may be missed.
    """
    found = _children(os.getpid())
    for process_id in found:  # grows
        found += _children(process_id)
    return found


def end_marked(marker: str) -> None:
    """Kills all processes whose environment contains the marker: what a killed supervisor could not end."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            if marker.encode() in (folder / "environ").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)


def _status_of(child: int) -> int | None:
    """The exit status for the child's end, None while it works; reaps whatever else has ended.

    A child that was stopped will not go on by itself, and counts as ended.
    """
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG | os.WUNTRACED)) != (0, 0):
            process_id, code = found
            if process_id == child:
                number = os.WSTOPSIG(code) if os.WIFSTOPPED(code) else -os.waitstatus_to_exitcode(code)
                return SIGNAL_STATUS + number if number > 0 else -number
    return None


def _children(process_id: int) -> list[int]:
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{process_id}/task"):
            found += map(int, Path(f"/proc/{process_id}/task/{thread}/children").read_text().split())
    return found


def _resident_bytes(process_id: int) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _proportional_bytes(process_id: int) -> int:
    """Memory of a process, with what it shares counted in proportion; that of other users' processes reads as 0."""
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        rows = Path(f"/proc/{process_id}/smaps_rollup").read_text().splitlines()
        return next((int(row.split()[1]) * 1024 for row in rows if row.startswith("Pss:")), 0)
    return 0


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}")
