"""Listening sockets on one address of this machine, bound before their port is told to the peers.

In: the address at which peers reach this process. Out: a port, and later the socket behind it. A socket that torch
binds itself listens on every address, and on a port that another process may have taken in the meantime.
"""

import socket

_reserved: dict[tuple[str, int], socket.socket] = {}


def reserve_port(address: str) -> int:
    """A port of this address that is this process's from now on."""
    listener = _listen(address, 0)
    port: int = listener.getsockname()[1]
    _reserved[address, port] = listener
    return port


def take_listener(address: str, port: int) -> socket.socket:
    """The socket behind a port that reserve_port() gave, else a new one; OSError where the port is taken."""
    return _reserved.pop((address, port), None) or _listen(address, port)


def _listen(address: str, port: int) -> socket.socket:
    return socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
