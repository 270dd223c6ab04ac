"""Settings for level memory: what is set already stays, and threads share two heaps. In processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import ctypes, os, threading
from orchestration.level_memory import ENVIRONMENT, keep_memory_level
keep_memory_level()
print(*(os.environ[name] for name in ENVIRONMENT), flush=True)
libc = ctypes.CDLL(None)
ready, leave = threading.Barrier(9), threading.Event()
def allocate():
    libc.malloc(1000)
    ready.wait()
    leave.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads: thread.start()
ready.wait()
libc.malloc_stats()  # on stderr
leave.set()
"""


@pytest.mark.parametrize(("variables", "shown", "num_heaps"), [({}, "2 0", 2), ({"MALLOC_ARENA_MAX": "4"}, "4 0", 4)])
def test_threads_share_a_few_heaps(variables: dict[str, str], shown: str, num_heaps: int) -> None:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "RAY_"))}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**inherited, **variables, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == shown.split()
    assert found.stderr.count("Arena ") == num_heaps
