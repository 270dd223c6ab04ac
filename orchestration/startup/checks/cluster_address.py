"""The address of a run's Ray cluster: resolved, and asked whether a cluster answers there.

In: cluster.address and RAY_ADDRESS. Out: what Ray is given, and a Check within seconds, where Ray itself tries for a
minute. Ray is imported only where there is a cluster to ask.
"""

import os
import re
import socket

from orchestration.startup.checks.deadline import within
from orchestration.startup.checks.result import Check, reason_of

LOCAL = "local"  # Ray's name for a cluster of its own on this machine, ended with the run
VARIABLE = "RAY_ADDRESS"  # `ray job submit` names its cluster in it
ANSWER_TIMEOUT_S = 3.0  # limit for the connection, with the look-up of the name, and again for Ray's answer
HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/@\[\]]+):(\d{1,5})")
# first request of every driver, to the server that keeps a cluster's state; an empty one is valid
CLUSTER_ID_REQUEST = "/ray.rpc.NodeInfoGcsService/GetClusterId"


class AddressError(ValueError):
    """An address at which no cluster answers; the message says why, and what to do."""


def cluster_address(configured: str) -> str:
    """The address that Ray is given: LOCAL, auto or host:port."""
    return (os.environ.get(VARIABLE) or LOCAL) if configured == "auto" else configured


def check_address(configured: str) -> Check:
    """Whether a cluster answers; a run that starts its own needs none."""
    address = cluster_address(configured)
    if address == LOCAL:
        return Check(name="cluster", found="none is joined, the run starts a Ray on this machine")
    try:
        answering = _running_here() if address == "auto" else address
        _refuse_silent(answering)
    except AddressError as error:
        line = f"cluster.address={address}: {error}"
        if configured == "auto":
            line = f"{VARIABLE}={address}: {error}; or unset {VARIABLE}, and the run starts a Ray on this machine"
        return Check(name="cluster", found="does not answer", mistakes=(line,))
    return Check(name="cluster", found=f"answers at {answering}")


def _refuse_silent(address: str) -> None:
    """AddressError unless a Ray cluster answers at host:port."""
    if "://" in address:
        kind = "Ray Client" if address.startswith("ray://") else "a job server"
        raise AddressError(
            f"is the address of {kind}, over which a run cannot be driven; give the cluster's own, <host>:6379, on one "
            f"of its machines, or submit the command with `ray job submit`"
        )
    parts = HOST_AND_PORT.fullmatch(address)
    if parts is None or not 0 < int(parts[2]) < 2**16:
        raise AddressError("must be auto, local or host:port, as 10.0.0.1:6379")
    host, port = parts[1].strip("[]"), int(parts[2])
    try:
        connect = socket.create_connection
        within(ANSWER_TIMEOUT_S, lambda: connect((host, port), timeout=ANSWER_TIMEOUT_S).close())
    except (OSError, ValueError) as error:
        raise AddressError(
            f"nothing answers there ({reason_of(error)}); correct it, or start the cluster with `ray start --head`"
        ) from error
    _ask_for_cluster(address)


def _running_here() -> str:
    """The address of the cluster that runs on this machine."""
    from ray._private.services import canonicalize_bootstrap_address

    try:
        return str(canonicalize_bootstrap_address("auto"))
    except (ConnectionError, ValueError) as error:
        raise AddressError("no Ray runs on this machine; give the cluster's host:port") from error


def _ask_for_cluster(address: str) -> None:
    """AddressError unless what listens is a Ray cluster that this machine may join."""
    import grpc
    from ray._private.grpc_utils import init_grpc_channel  # with Ray's own settings of TLS and tokens

    options = (("grpc.enable_http_proxy", 0),)  # a proxy for the web does not lead to the cluster
    with init_grpc_channel(address, options) as channel:
        try:
            channel.unary_unary(CLUSTER_ID_REQUEST)(b"", timeout=ANSWER_TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                raise AddressError(
                    "a Ray cluster answers and refuses this machine's token; set RAY_AUTH_MODE and RAY_AUTH_TOKEN as "
                    "on the cluster"
                ) from error
            raise AddressError(
                f"what answers there is no Ray cluster ({error.code().name}); give the port of `ray start --head`, "
                f"usually 6379"
            ) from error
