"""Loopback for a local run: nothing that it starts can be reached from another machine.

In: nothing. Out: a block in which a Ray starts so. Ray hands its environment on to every actor and their children.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ray._private import ray_constants

LOOPBACK_VARIABLES = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "VLLM_HOST_IP": "127.0.0.1"}


@contextmanager
def loopback_only() -> Iterator[None]:
    """Binds a Ray that starts in the block to 127.0.0.1; variables that the user has set win."""
    added = {name: value for name, value in LOOPBACK_VARIABLES.items() if name not in os.environ}
    # Ray replaces 127.0.0.1 as a node's address by that of the network, except by this switch, which is the default on
    # macOS and Windows. A node's address is also where its servers listen: on loopback if it is 127.0.0.1, else on all.
    reachable, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    os.environ.update(added)
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = reachable
        for name in added:
            del os.environ[name]
