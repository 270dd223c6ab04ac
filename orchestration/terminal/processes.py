"""Ends processes at once: those below a process, and those of whole sessions.

In: a process id, ids of sessions. Out: none of them alive. Reads /proc, and imports next to nothing, because a command
needs this module before all others.
"""

import os
import signal
import time
from collections.abc import Iterable

POLL_S = 0.02
LIMIT_S = 5.0  # for a process that the kernel does not let die: it waits for a device


def end_processes(*, below: int | None = None, sessions: Iterable[int] = ()) -> None:
    """Kills every process below `below`, and every process of `sessions` and of the sessions that those lead.

    A process whose parent has died is below nobody, but still in its session.
    """
    doomed = set(sessions)
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        table = _table()
        found = _below(below, table)
        doomed |= {session for pid, (_, session) in table.items() if pid in found and session == pid}
        found |= {pid for pid, (_, session) in table.items() if session in doomed}
        if not found - {os.getpid()}:
            return
        for pid in found - {os.getpid()}:
            _kill(pid)
        time.sleep(POLL_S)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _below(root: int | None, table: dict[int, tuple[int, int]]) -> set[int]:
    found: set[int] = set()
    new = {pid for pid, (parent, _) in table.items() if parent == root}
    while new:
        found |= new
        new = {pid for pid, (parent, _) in table.items() if parent in new} - found
    return found


def _table() -> dict[int, tuple[int, int]]:
    """Parent and session of every process that lives."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    state, parent, _, session = file.read().rpartition(b")")[2].split()[:4]
            except (FileNotFoundError, ProcessLookupError, PermissionError):  # it has ended meanwhile
                continue
            if state != b"Z":
                found[int(name)] = (int(parent), int(session))
    return found
