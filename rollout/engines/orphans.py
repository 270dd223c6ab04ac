"""The end of vLLM's processes with the actor that owns the engine, however that actor ended.

An actor that is killed by the kernel cannot notify its children. Each worker therefore watches the actor's process id,
which the actor leaves in the environment, and ends itself and vLLM's engine core between them. One that is stopped
cannot, so that others end it. Knows nothing of vLLM.
"""

import os
import signal
import threading
import time
from pathlib import Path

OWNER_VARIABLE = "SOFTGATE_ENGINE_OWNER"
CHECK_EVERY_S = 1.0


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
    mark = f"{OWNER_VARIABLE}={owner}".encode()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environment.read_bytes().split(b"\0"):
                os.kill(int(environment.parent.name), signal.SIGKILL)
        except OSError:  # it has ended meanwhile, or belongs to somebody else
            continue
