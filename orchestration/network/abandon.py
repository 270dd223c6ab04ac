"""The end of a Ray that does not answer, without asking it: Ray's own end waits for its answers, up to a minute.

In: the folder of a Ray that this process has started. Out: none of its processes, and none of their children. What runs
on a cluster ends with the cluster's processes.
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

ENDED_AFTER_S = 5.0  # a killed process is gone within milliseconds, if it does not wait for a disk


def abandon_ray(folder: Path | None) -> None:
    """Kills every process that writes into this Ray's folder; this process then ends without Ray, with status 1.

    None: a cluster's Ray, of which no process is this one's.
    """
    deadline = time.monotonic() + ENDED_AFTER_S
    while folder is not None and (left := list(_writers(folder))) and time.monotonic() < deadline:
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)
    atexit.unregister(ray.shutdown)
    atexit.register(_leave)


def _writers(folder: Path) -> Iterator[int]:
    """Processes whose output goes there, as that of all of Ray's processes and of their children does."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            if any((process / "fd" / stream).readlink().is_relative_to(folder.resolve()) for stream in ("1", "2")):
                yield int(process.name)


def _leave() -> None:
    """Ends the process before Ray's C++ destructors run, which wait too."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
