"""The end of a Ray that does not answer, without asking it.

In: nothing. Out: no process of a Ray that this process has started. Ray's own end waits for its answers.
"""

import atexit

import ray
from ray._private import worker


def abandon_ray() -> None:
    """Kills the processes of a Ray of this process's own; its actors end with its raylet."""
    atexit.unregister(ray.shutdown)
    if worker._global_node is not None:
        worker._global_node.kill_all_processes(check_alive=False, allow_graceful=False)
