"""Network of this machine: a port on the loopback address, and the interfaces that variables name."""

import os
import socket

from orchestration.startup.checks.result import Check, reason_of

INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "TP_SOCKET_IFNAME")  # of gloo, which takes exact names
TIMEOUT_S = 3.0


def check_ports() -> Check:
    """Whether processes of this machine can reach each other, as Ray, ranks and engines have to."""
    mistakes = []
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S).close()
    except OSError as error:
        mistakes.append(f"127.0.0.1: no port can be opened and reached ({reason_of(error)}); bring up the interface lo")
    present = [name for _, name in socket.if_nameindex()]
    for variable in INTERFACE_VARIABLES:
        for name in filter(None, os.environ.get(variable, "").split(",")):
            if name not in present:
                mistakes.append(f"{variable}={name}: no such network interface, only {', '.join(present)}; correct it")
    return Check(name="ports", found="127.0.0.1 can be reached", mistakes=tuple(mistakes))
