"""The transport over gloo, between threads of one process."""

import socket
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import torch

from transfer.communicator import join
from transfer.ports import reserve_port, take_listener
from transfer.transport import Rendezvous

CPU = torch.device("cpu")


def rendezvous(*, world_size: int, timeout_s: float = 30.0) -> Rendezvous:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Rendezvous(backend="gloo", host="127.0.0.1", port=port, world_size=world_size, timeout_s=timeout_s)


def test_every_member_gets_the_bytes_of_rank_0() -> None:
    meeting = rendezvous(world_size=3)

    def member(rank: int) -> torch.Tensor:
        transport = join(meeting, rank=rank, device=CPU)
        buffer = torch.full((1000,), rank + 7, dtype=torch.uint8)
        transport.start(buffer).wait()
        return buffer

    with ThreadPoolExecutor(3) as threads:
        buffers = list(threads.map(member, range(3)))
    assert all(torch.equal(buffer, torch.full((1000,), 7, dtype=torch.uint8)) for buffer in buffers)


def test_a_member_that_never_comes_ends_the_wait() -> None:
    with pytest.raises(RuntimeError):
        join(rendezvous(world_size=2, timeout_s=1.0), rank=0, device=CPU)


def test_only_the_address_of_the_rendezvous_is_listened_on() -> None:
    meeting = Rendezvous(backend="gloo", host="127.0.0.1", port=reserve_port("127.0.0.1"), world_size=1, timeout_s=30.0)
    with socket.create_connection((meeting.host, meeting.port), timeout=30.0):
        pass  # the port is this process's before the rendezvous is opened, so nobody else can take it
    transport = join(meeting, rank=0, device=CPU)
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for connection in psutil.Process().net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert [ip for ip, port in listening if port == meeting.port] == ["127.0.0.1"]
    transport.close()


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError, match="in use"):
        take_listener("127.0.0.1", other.getsockname()[1])
