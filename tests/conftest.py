"""What every test shares: one thread a process, no network, repeatable random numbers, marks by folder.

Knows nothing of the packages; fixtures of one package live beside its tests.
"""

import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

# A session in the background is told to ignore Ctrl-C, and the commands that it starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Before any test imports torch: two processes with two threads each on two cores spend their time spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may depend on a download

settings.register_profile("softgate", deadline=None, derandomize=True)
settings.load_profile("softgate")

TESTS = Path(__file__).parent
MARKED_FOLDERS = ("integration", "gpu")


@pytest.hookimpl(tryfirst=True)  # before pytest applies -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark a test with the name of its folder where that is a marker, so that no file can forget it."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if folder in MARKED_FOLDERS:
            item.add_marker(folder)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With -n 2 one worker runs the integration tests, which share fixtures and cores, the other one the unit tests.

    --dist loadgroup would do the same, but xdist 3.8 finds no groups under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneWorkerAFolder(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:  # tests of one answer stay in one worker, the largest number first
            folder = nodeid.removeprefix(f"{TESTS.name}/").partition("/")[0]
            return folder if folder in MARKED_FOLDERS else nodeid

    return OneWorkerAFolder(config, log)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start every test from the same global random state; torch seeds itself where a test uses it."""
    random.seed(0)
    np.random.seed(0)
