"""The environment in which Ray starts or is joined: reachable from this machine only, and no end without a word.

In: whether this process starts a Ray of its own. Out: a block for the start. Such a Ray hands its environment on to
every process that it starts, actors and their children included, and starts none before it is needed.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ray._private import ray_constants

# Ray would start a process for each core; engines and ranks have environments of their own and use none of these.
WITHOUT_IDLE_WORKERS = {"RAY_prestart_worker_first_driver": "0"}
LOOPBACK_VARIABLES = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "VLLM_HOST_IP": "127.0.0.1"}


@contextmanager
def starting_ray(*, is_local: bool) -> Iterator[None]:
    """To be around ray.init(); a local Ray listens on 127.0.0.1 only. Variables of LOOPBACK_VARIABLES in use stay."""
    # Ray ends a process whose raylet has died without a word, and takes the process of this number for the raylet.
    variables = {"RAY_RAYLET_PID": str(os.getpid())}
    # Ray replaces a node's address 127.0.0.1 by that of the network, except where this is False, as on macOS. Its
    # servers listen on 127.0.0.1 if that is the node's address, else on all addresses.
    reachable = ray_constants.ENABLE_RAY_CLUSTER
    if is_local:
        variables |= WITHOUT_IDLE_WORKERS | LOOPBACK_VARIABLES | _set(LOOPBACK_VARIABLES)
        ray_constants.ENABLE_RAY_CLUSTER = False
    before = _set(variables)
    os.environ.update(variables)
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = reachable
        for name in variables:
            del os.environ[name]
        os.environ.update(before)


def _set(names: Iterable[str]) -> dict[str, str]:
    """Those of the variables that are set."""
    return {name: os.environ[name] for name in names if name in os.environ}
