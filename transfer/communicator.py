"""A process group of its own for the publish: learner rank 0 is rank 0, the engines' workers follow.

In: an address, a rank, a world size. Out: `broadcast(buffer)` from rank 0, in place. It is separate from the groups
that DeepSpeed and vLLM use among themselves, so a broken publish cannot leave theirs half-way through a collective.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist

Backend = Literal["gloo", "nccl"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendezvous:
    """Where the members of a broadcast group meet; rank 0 opens the port."""

    backend: Backend
    host: str
    port: int
    world_size: int
    timeout_s: float


class BroadcastGroup:
    """One member of the group. Blocks in the constructor until all have arrived; RuntimeError after timeout_s.

    nccl lets two members share a device only with NCCL >= 2.30 and NCCL_MULTI_RANK_GPU_ENABLE=1.
    """

    def __init__(self, rendezvous: Rendezvous, *, rank: int, device: torch.device) -> None:
        timeout = timedelta(seconds=rendezvous.timeout_s)
        self.rank = rank
        self._device = device
        self._store = dist.TCPStore(
            rendezvous.host, rendezvous.port, rendezvous.world_size, is_master=rank == 0, timeout=timeout
        )
        self._group = _process_group(rendezvous, self._store, rank, timeout)
        self.broadcast(torch.zeros(4, dtype=torch.uint8, device=device))  # the first collective connects the peers

    def start(self, buffer: torch.Tensor) -> "Transfer":
        """Begins to send rank 0's buffer into everybody's. Transfers happen in the order in which they are started."""
        options = dist.BroadcastOptions()
        options.rootRank = 0
        options.rootTensor = 0
        return Transfer(work=self._group.broadcast([buffer], options), buffer=buffer)

    def broadcast(self, buffer: torch.Tensor) -> None:
        """Sends rank 0's buffer into everybody's and waits for it."""
        self.start(buffer).wait()


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """A broadcast under way."""

    work: Any  # torch.distributed.Work
    buffer: torch.Tensor

    def wait(self) -> None:
        """Returns when the buffer holds rank 0's bytes and may be read and reused; RuntimeError after the time-out."""
        self.work.wait()
        if self.buffer.is_cuda:
            torch.cuda.current_stream(self.buffer.device).synchronize()


def _process_group(rendezvous: Rendezvous, store: dist.Store, rank: int, timeout: timedelta) -> Any:
    if rendezvous.backend == "gloo":
        return dist.ProcessGroupGloo(store, rank, rendezvous.world_size, timeout)
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = timeout
    return dist.ProcessGroupNCCL(store, rank, rendezvous.world_size, options)
