"""The end of this process without a Ray that does not answer: its own end waits for answers, up to a minute."""

import atexit
import os
import sys

import ray


def abandon_ray() -> None:
    """Makes this process leave without asking Ray, with status 1; other ends of its processes are the caller's."""
    atexit.unregister(ray.shutdown)
    atexit.register(_leave)


def _leave() -> None:
    """Ends the process before Ray's C++ destructors run, which wait too."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
