"""The end of vLLM's processes with the actor that owns the engine, however that actor ended.

An actor that is killed by the kernel cannot notify its children. Each worker therefore watches the actor's process id,
which the actor leaves in the environment, and ends itself and vLLM's engine core between them. One that is stopped
cannot, so that others end it. Knows nothing of vLLM.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

OWNER_VARIABLE = "SOFTGATE_ENGINE_OWNER"
CHECK_EVERY_S = 1.0
STOPPED_STATES = ("T", "t")  # of /proc/<process>/stat: stopped by a signal, and by a debugger


def own_children() -> None:
    """Marks this process, an actor, as the owner of the processes it starts afterwards."""
    os.environ[OWNER_VARIABLE] = str(os.getpid())


def end_with_owner() -> None:
    """Makes this process, a child or a child's child, end within seconds of its owner."""
    owner, parent = int(os.environ[OWNER_VARIABLE]), os.getppid()
    threading.Thread(target=_watch, args=(owner, parent), name="watch-owner", daemon=True).start()


def _watch(owner: int, parent: int) -> None:
    while os.getppid() == parent and _is_alive(owner):
        time.sleep(CHECK_EVERY_S)
    if parent != owner and os.getppid() == parent:
        os.kill(parent, signal.SIGKILL)
    os._exit(1)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def end_children_of(owner: int) -> None:
    """Kills every process on this machine that an actor with this process id has owned."""
    for child in children_of(owner):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def children_of(owner: int) -> Iterator[int]:
    """The processes of that owner. Looks at every process of this machine: a thousand take a third of a second."""
    mark = f"{OWNER_VARIABLE}={owner}".encode()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it has ended meanwhile, or belongs to somebody else
            if mark in environment.read_bytes().split(b"\0"):
                yield int(environment.parent.name)


def is_stopped(process: int) -> bool:
    """Whether somebody has stopped it (SIGSTOP, a debugger), so that it answers nothing."""
    with suppress(OSError):  # it has ended
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].startswith(STOPPED_STATES)
    return False
