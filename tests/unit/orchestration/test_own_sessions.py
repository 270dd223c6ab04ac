"""Processes that Ray starts, played by `sleep`: who reaches them, and what becomes of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from ray._private import services, utils

from orchestration.own_sessions import own_sessions

ROOT = Path(__file__).resolve().parents[3]
EVENT_TIMEOUT_S = 60.0
DRIVER = """
import time
from ray._private import services
from orchestration.own_sessions import own_sessions
with own_sessions():
    raylet = services.ConsolePopen(["sh", "-c", "sleep 300 & echo $!; wait"])
    print("started", flush=True)
    time.sleep(300)
"""


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_signal_to_the_group_does_not_reach_them_and_a_killed_driver_takes_them_along() -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert driver.stdout is not None
    lines = {driver.stdout.readline().strip() for _ in range(2)}  # in either order
    agent = psutil.Process(int((lines - {"started"}).pop()))
    raylet = agent.parent()
    assert raylet is not None
    assert os.getsid(agent.pid) == raylet.pid
    assert os.getpgid(raylet.pid) != os.getpgid(driver.pid)

    driver.kill()
    driver.wait()
    deadline = time.monotonic() + EVENT_TIMEOUT_S
    while not (has_ended(agent) and has_ended(raylet)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    driver.stdout.close()


def test_whatever_ray_leaves_is_ended_and_its_names_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    before = (services.ConsolePopen, utils.set_sigterm_handler)
    handler = signal.getsignal(signal.SIGTERM)
    with own_sessions():
        left = services.ConsolePopen(["sh", "-c", "sleep 300 & wait"])
        utils.set_sigterm_handler(lambda number, frame: None)
        assert signal.getsignal(signal.SIGTERM) is handler, "SIGTERM stays ours"
        children = []
        while not children:
            children = psutil.Process(left.pid).children()
    assert all(map(has_ended, children))
    assert left.wait(timeout=EVENT_TIMEOUT_S) == -signal.SIGKILL
    assert (services.ConsolePopen, utils.set_sigterm_handler) == before
