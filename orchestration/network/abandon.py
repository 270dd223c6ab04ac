"""The end of a Ray that does not answer, without asking it: Ray's own end waits for its answers, up to a minute.

In: nothing. Out: no process of a Ray that this process has started, vLLM's and the graders' children included. What
runs on a cluster ends with the cluster's processes.
"""

import atexit
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import ray

from orchestration.network.starting import OWNER, OWNER_VARIABLE

ENDED_AFTER_S = 5.0  # a killed process is gone within milliseconds, if it does not wait for a disk


def abandon_ray() -> None:
    """Kills every process of a Ray of this process's own, and lets this process end without Ray, with status 1."""
    deadline = time.monotonic() + ENDED_AFTER_S
    while (left := list(_owned_processes())) and time.monotonic() < deadline:
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
    atexit.unregister(ray.shutdown)
    atexit.register(_leave)


def _owned_processes() -> Iterator[int]:
    mark = f"{OWNER_VARIABLE}={OWNER}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)


def _leave() -> None:
    """Ends the process before Ray's C++ destructors run, which wait too."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
