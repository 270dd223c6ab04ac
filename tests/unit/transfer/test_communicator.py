"""The transport over gloo, between threads of one process."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psutil
import pytest
import torch

from transfer.communicator import join, open_store, serve_store
from transfer.ports import reserve_port, take_listener
from transfer.transport import Rendezvous

CPU = torch.device("cpu")


def rendezvous(store: Any, *, world_size: int, timeout_s: float = 30.0) -> Rendezvous:
    return Rendezvous(backend="gloo", host="127.0.0.1", port=store.port, world_size=world_size, timeout_s=timeout_s)


def ports_of(process: psutil.Process) -> dict[int, str]:
    """Addresses on which the process listens, by port."""
    connections = process.net_connections()
    return {each.laddr.port: each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}


def test_every_member_gets_the_bytes_of_rank_0() -> None:
    store = serve_store("127.0.0.1")
    meeting = rendezvous(store, world_size=3)

    def member(rank: int) -> torch.Tensor:
        transport = join(meeting, rank=rank, device=CPU)
        buffer = torch.full((1000,), rank + 7, dtype=torch.uint8)
        transport.start(buffer).wait()
        return buffer

    with ThreadPoolExecutor(3) as threads:
        buffers = list(threads.map(member, range(3)))
    assert all(torch.equal(buffer, torch.full((1000,), 7, dtype=torch.uint8)) for buffer in buffers)


def test_a_member_that_never_comes_ends_the_wait() -> None:
    store = serve_store("127.0.0.1")
    with pytest.raises(RuntimeError):
        join(rendezvous(store, world_size=2, timeout_s=1.0), rank=0, device=CPU)


def test_members_that_wait_for_others_fail_at_once_when_the_store_goes() -> None:
    store = serve_store("127.0.0.1")
    meeting = rendezvous(store, world_size=3, timeout_s=600.0)
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(join, meeting, rank=rank, device=CPU) for rank in range(2)]
        deadline = time.monotonic() + 60.0
        while store.num_keys() < 2:  # both are inside
            assert time.monotonic() < deadline
        del store
        for member in waiting:
            with pytest.raises(RuntimeError):
                member.result(timeout=60.0)


def test_only_the_address_of_a_store_is_listened_on() -> None:
    port = reserve_port("127.0.0.1")
    with socket.create_connection(("127.0.0.1", port), timeout=30.0):
        pass  # the port is this process's before the store is opened, so nobody else can take it
    timeout = timedelta(seconds=30.0)
    stores = [serve_store("127.0.0.1"), open_store("127.0.0.1", port, rank=0, world_size=1, timeout=timeout)]
    listening = ports_of(psutil.Process())
    assert [listening[store.port] for store in stores] == ["127.0.0.1"] * 2


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(OSError, match="in use"):
        take_listener("127.0.0.1", other.getsockname()[1])
