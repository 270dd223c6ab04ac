"""A command of our own without engines and learner, which take most of a run's start.

It waits in Ray, as runs do most of the time. Argument: `local`, the address of a cluster, or `late`: a Ray of its own
whose first start takes longer than Ray's limit.
"""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import ray
from ray._private import node, services

from configs.loading import load_config
from orchestration.cluster import start_cluster
from orchestration.terminal.exit_status import command, leave
from orchestration.terminal.stopping import Stopping

PROJECT_ROOT = Path(__file__).parents[2]


class Peer:
    """Who is waited for."""

    def wait(self) -> None:
        print("waiting", flush=True)
        time.sleep(600)


def be_late() -> None:
    """Makes Ray's first look for its new node find nothing, and its limit pass meanwhile."""
    get_node = services.get_node

    def find_nothing(gcs_address: str, node_id: str) -> None:
        services.get_node = get_node
        node.time = SimpleNamespace(**vars(time) | {"monotonic": lambda: time.monotonic() + 100.0})
        raise RuntimeError(f"no node {node_id} yet")

    services.get_node = find_nothing


@command
def main(arguments: list[str]) -> int:
    (address,) = arguments
    if address == "late":
        be_late()
    config = load_config([f"cluster.address={'local' if address == 'late' else address}"])
    with Stopping(grace_s=60.0), start_cluster(config.cluster, config.rollout, None):
        peer = ray.remote(Peer).options(num_cpus=0).remote()
        ray.get(peer.wait.remote())
    return 0


def start_waiting(
    address: str, output: Path, *, environment: dict[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """Starts the command in a process group of its own, and returns it once it waits."""
    with output.open("w") as log:
        command = [sys.executable, "-m", "tests.integration.waiting_command", address]
        process = subprocess.Popen(
            command, cwd=PROJECT_ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    while "waiting" not in output.read_text():
        assert process.poll() is None, output.read_text()
        time.sleep(0.1)
    return process


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
