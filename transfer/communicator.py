"""Transports over torch's process groups, and which one is behind which name.

In: a Rendezvous, a rank, a device. Out: a Transport. The process group is separate from those that DeepSpeed and vLLM
use among themselves, so a broken publish cannot leave theirs half-way through a collective.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from transfer.ports import reserve_port, take_listener
from transfer.transport import Backend, Rendezvous, Transport

STORE_TIMEOUT = timedelta(seconds=30)  # a store is there before its address is told, unless a member has died by then

FormGroup = Callable[[dist.Store, int, int, timedelta], Any]  # takes store, rank, world size and time-out


def open_store(host: str, port: int, *, rank: int, world_size: int, timeout: timedelta) -> dist.TCPStore:
    """The store through which the members of a process group meet; rank 0 serves it, on the address `host` only.

    Nobody has to prove who they are to a store, so whoever reaches it can join or disturb the group.
    """
    listener = take_listener(host, port).detach() if rank == 0 else None  # torch closes it with the store
    return dist.TCPStore(host, port, world_size, is_master=rank == 0, timeout=timeout, master_listen_fd=listener)


def serve_store(host: str) -> dist.TCPStore:
    """A store on a free port of this machine's address `host`, for a Rendezvous; it lives as long as this object.

    Members that still wait for each other when it goes fail at once.
    """
    port = reserve_port(host)
    return dist.TCPStore(
        host, port, is_master=True, wait_for_workers=False, master_listen_fd=take_listener(host, port).detach()
    )


class ProcessGroupTransport(Transport):
    """A process group of the publish's own; forming it blocks until all are there, RuntimeError after the time-out."""

    def __init__(self, form_group: FormGroup, rendezvous: Rendezvous, *, rank: int, device: torch.device) -> None:
        timeout = timedelta(seconds=rendezvous.timeout_s)
        self._store: Any = dist.TCPStore(
            rendezvous.host, rendezvous.port, is_master=False, timeout=min(timeout, STORE_TIMEOUT)
        )
        self._store.set_timeout(timeout)
        self._started: list[Broadcast] = []  # those that nobody has waited for
        self._group = form_group(self._store, rank, rendezvous.world_size, timeout)
        self.start(torch.zeros(4, dtype=torch.uint8, device=device)).wait()  # the first collective connects the peers

    def start(self, buffer: torch.Tensor) -> "Broadcast":
        options = dist.BroadcastOptions()
        options.rootRank = 0
        options.rootTensor = 0
        self._started = [each for each in self._started if each.work is not None]
        self._started.append(Broadcast(work=self._group.broadcast([buffer], options), buffer=buffer))
        return self._started[-1]

    def close(self) -> None:
        for broadcast in self._started:
            broadcast.work = None
        self._group = self._store = None  # torch ends both, and the connections, with the last reference to any


@dataclass(kw_only=True, slots=True)
class Broadcast:
    """A broadcast under way: a Transfer."""

    work: Any  # torch.distributed.Work; None once it was waited for or given up
    buffer: torch.Tensor

    def wait(self) -> None:
        work, self.work = self.work, None
        work.wait()
        if self.buffer.is_cuda:
            torch.cuda.current_stream(self.buffer.device).synchronize()


def _nccl_group(store: dist.Store, rank: int, world_size: int, timeout: timedelta) -> Any:
    """NCCL's process group. Two members share a GPU only with NCCL >= 2.30 and NCCL_MULTI_RANK_GPU_ENABLE=1."""
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    return dist.ProcessGroupNCCL(store, rank, world_size, options)


# By name; each is called as join() is.
TRANSPORTS: dict[Backend, Callable[..., Transport]] = {
    "gloo": partial(ProcessGroupTransport, dist.ProcessGroupGloo),
    "nccl": partial(ProcessGroupTransport, _nccl_group),
}


def join(rendezvous: Rendezvous, *, rank: int, device: torch.device) -> Transport:
    """Blocks until all members have joined; RuntimeError after timeout_s."""
    return TRANSPORTS[rendezvous.backend](rendezvous, rank=rank, device=device)
