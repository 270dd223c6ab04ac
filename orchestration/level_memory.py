"""Settings under which the memory of a long run's processes stays level.

In: nothing. Out: the environment that this process hands on to Ray and to all actors of a local cluster, and its own
allocator's limit. docs/benchmarks.md has the growth with and without.
"""

import ctypes
import os

# A thread of its own heap keeps what it has freed; with two heaps for all threads others use it.
NUM_HEAPS = 2
M_ARENA_MAX = -8  # number of the option in glibc's mallopt()
# Ray's head would keep a record of each of the last 100,000 calls, 2 KiB each, for `ray list tasks`.
ENVIRONMENT = {"MALLOC_ARENA_MAX": str(NUM_HEAPS), "RAY_task_events_report_interval_ms": "0"}


def keep_memory_level() -> None:
    """Sets what is not set otherwise; to be called before Ray starts."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ctypes.CDLL(None).mallopt(M_ARENA_MAX, int(os.environ["MALLOC_ARENA_MAX"]))
