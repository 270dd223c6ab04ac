"""A command of our own that waits in a Ray of its own: its GCS or raylet is killed, or Ctrl-C is pressed five times.

test_cluster.py ends another node, test_jobs.py the raylet of a driver's node in a cluster.
"""

import os
import signal
import time
from pathlib import Path

import pytest
from machine import slowdown
from support import EVENT_TIMEOUT_S, NAMED_WITHIN_S, RAY_FOLDER, kill_ray_process, reachable_ports
from waiting_command import start_waiting

from orchestration.network.session_folders import MARKER

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PRESS_EVERY_S = 0.2  # one Ctrl-C counts once within 0.1 s


@pytest.mark.parametrize(("process", "title"), [("gcs_server", "GCS"), ("raylet", "raylet")])
def test_a_killed_process_of_ray_is_named_in_time_and_nothing_is_left(
    process: str, title: str, tmp_path: Path, no_process_left: None
) -> None:
    output = tmp_path / "output"
    command = start_waiting("local", output)
    assert reachable_ports(command.pid) == []
    killed_at = time.monotonic()
    kill_ray_process(command.pid, process)
    assert command.wait(timeout=EVENT_TIMEOUT_S) == 1
    assert time.monotonic() - killed_at < NAMED_WITHIN_S * slowdown()
    (line,) = [line for line in output.read_text().splitlines() if line.startswith("softgate: ")]
    assert line.startswith(f"softgate: Ray's {title} on node 127.0.0.1 does not answer any more")
    assert f"{process}.out" in line
    assert "run the command again" in line


def test_five_presses_end_a_command_at_once_whose_ray_has_started_at_the_second_attempt(
    tmp_path: Path, no_process_left: None
) -> None:
    output = tmp_path / "output"
    command = start_waiting("late", output)
    for _ in range(5):
        if command.poll() is None:
            os.killpg(command.pid, signal.SIGINT)
        time.sleep(PRESS_EVERY_S)
    assert command.wait(timeout=EVENT_TIMEOUT_S) == 130
    said = output.read_text()
    assert said.splitlines()[-2:] == ["stopping within 60 s; Ctrl-C again stops at once", "softgate: interrupted"], said
    assert "Traceback" not in said
    left = [folder for folder in RAY_FOLDER.glob(f"session_*_{command.pid}") if not (folder / MARKER).exists()]
    assert left == [], "that of the last start is removed by the next run, because Ray was killed in it"
