"""The end of processes that an actor has owned, on real ones: a stopped one cannot watch its owner."""

import os
import signal
import subprocess
import sys
import time

from rollout.engines.orphans import OWNER_VARIABLE, children_of, end_children_of, is_stopped

OWNER = 2**22 + 17  # above every process id


def test_what_an_actor_has_owned_is_ended_even_if_it_is_stopped() -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    owned, other = (
        subprocess.Popen(sleep, env={**os.environ, OWNER_VARIABLE: str(owner)}) for owner in (OWNER, OWNER + 1)
    )
    try:
        owned.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 60.0
        while not is_stopped(owned.pid):
            assert time.monotonic() < deadline
        assert not is_stopped(other.pid)
        assert [*children_of(OWNER)] == [owned.pid]
        end_children_of(OWNER)
        assert owned.wait(timeout=60) == -signal.SIGKILL
        assert not is_stopped(owned.pid), "it has ended"
        assert other.poll() is None
    finally:
        for process in (owned, other):
            process.kill()
            process.wait()
