"""A GCS or a raylet that is killed while a command of our own waits; test_cluster.py ends a node."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from machine import slowdown
from support import EVENT_TIMEOUT_S, NAMED_WITHIN_S, PROJECT_ROOT, kill_ray_process, reachable_ports

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

# A command without engines and learner, which take most of a run's start. It waits in Ray, as runs do most of the time.
COMMAND = """
import sys
import ray
from configs.loading import load_config
from orchestration.cluster import start_cluster
from orchestration.terminal.exit_status import exit_status
from orchestration.terminal.stopping import Stopping

class Peer:
    def wait(self):
        import time
        print("waiting", flush=True)
        time.sleep(600)

config = load_config([])
try:
    with Stopping(), start_cluster(config.cluster, config.rollout, None):
        peer = ray.remote(Peer).options(num_cpus=0).remote()
        ray.get(peer.wait.remote())
except (ValueError, RuntimeError) as error:
    sys.exit(exit_status(error))
"""


@pytest.mark.parametrize(("process", "title"), [("gcs_server", "GCS"), ("raylet", "raylet")])
def test_a_killed_process_of_ray_is_named_in_time_and_nothing_is_left(
    process: str, title: str, tmp_path: Path, no_process_left: None
) -> None:
    output = tmp_path / "output"
    with output.open("w") as log:
        command = subprocess.Popen(
            [sys.executable, "-c", COMMAND], cwd=PROJECT_ROOT, stdout=log, stderr=log, start_new_session=True
        )
    while "waiting" not in output.read_text():
        assert command.poll() is None, output.read_text()
        time.sleep(0.1)
    assert reachable_ports(command.pid) == []
    killed_at = time.monotonic()
    kill_ray_process(command.pid, process)
    assert command.wait(timeout=EVENT_TIMEOUT_S) == 1
    assert time.monotonic() - killed_at < NAMED_WITHIN_S * slowdown()
    (line,) = [line for line in output.read_text().splitlines() if line.startswith("softgate: ")]
    assert line.startswith(f"softgate: Ray's {title} on node 127.0.0.1 does not answer any more")
    assert f"{process}.out" in line
    assert "run the command again" in line
