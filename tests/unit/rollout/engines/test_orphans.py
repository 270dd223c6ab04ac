"""The end of processes that an actor has owned, on real ones: a stopped one cannot watch its owner."""

import os
import signal
import subprocess
import sys
import time

import pytest

from rollout.engines.orphans import OWNER_VARIABLE, end_children_of, stopped_child

OWNER = 2**22 + 17  # above every process id


def test_what_an_actor_has_owned_is_ended_even_if_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    owned, other = (
        subprocess.Popen(sleep, env={**os.environ, OWNER_VARIABLE: str(owner)}) for owner in (OWNER, OWNER + 1)
    )
    try:
        owned.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(os, "getpid", lambda: OWNER)
        deadline = time.monotonic() + 60.0
        while stopped_child() != owned.pid:
            assert time.monotonic() < deadline
        monkeypatch.setattr(os, "getpid", lambda: OWNER + 1)
        assert stopped_child() is None
        end_children_of(OWNER)
        assert owned.wait(timeout=60) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for process in (owned, other):
            process.kill()
            process.wait()
