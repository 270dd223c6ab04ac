"""WeightSender over a transport in memory: what a transport is asked for, and that any one can carry a publish."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from learner.model.weights import PublishedWeight
from learner.sender import WeightSender
from transfer import communicator
from transfer.transport import Rendezvous, Transport
from transfer.wire import digest, unpack

CPU = torch.device("cpu")
MEETING = Rendezvous(backend="gloo", host="", port=0, world_size=2, timeout_s=1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Copied:
    buffer: torch.Tensor

    def wait(self) -> None:
        """It was copied when it was started."""


class MemoryTransport(Transport):
    """Members of one process: rank 0 leaves its buffers here, the others fetch them in order."""

    members: ClassVar[list["MemoryTransport"]] = []

    def __init__(self, rendezvous: Rendezvous, *, rank: int, device: torch.device) -> None:
        self.rank = rank
        self.buffers: list[torch.Tensor] = []
        self.is_open = True
        self._fetched = self._from_rank_0()
        self.members.append(self)

    def start(self, buffer: torch.Tensor) -> Copied:
        assert self.is_open
        if self.rank == 0:
            self.buffers.append(buffer.clone())
        else:
            buffer.copy_(next(self._fetched))
        return Copied(buffer=buffer)

    def close(self) -> None:
        self.is_open = False

    def _from_rank_0(self) -> Iterator[torch.Tensor]:
        (sender,) = (member for member in self.members if member.rank == 0 and member.is_open)
        yield from sender.buffers


@pytest.fixture
def members(monkeypatch: pytest.MonkeyPatch) -> list[MemoryTransport]:
    monkeypatch.setattr(MemoryTransport, "members", [])
    monkeypatch.setitem(communicator.TRANSPORTS, "gloo", MemoryTransport)
    return MemoryTransport.members


def test_a_publish_travels_over_any_transport(members: list[MemoryTransport]) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [
        PublishedWeight(name=name, base=nn.Parameter(torch.randn(shape, generator=generator)), factors=None)
        for name, shape in {
            "embed": (3, 5),
            "layers.0.up": (4, 4),
            "layers.0.norm": (4,),
            "layers.1.up": (4, 4),
        }.items()
    ]
    sender = WeightSender(weights, rank=0, device=CPU, wire_dtype="float32")
    sender.connect(MEETING)
    report = sender.send(verify=True, only_changing=False)

    receiver = communicator.join(MEETING, rank=1, device=CPU)
    received: dict[str, torch.Tensor] = {}
    for group in sender.groups:
        transfer = receiver.start(torch.empty(group.num_bytes, dtype=torch.uint8))
        transfer.wait()
        assert digest(transfer.buffer) == report.digests[group.label]
        names = [meta.name for meta in group.parameters]
        received |= zip(names, unpack(group, transfer.buffer), strict=True)
    assert received.keys() == {weight.name for weight in weights}
    assert all(torch.equal(received[weight.name], weight.base) for weight in weights)


def test_a_sender_leaves_the_old_members_before_it_meets_new_ones(members: list[MemoryTransport]) -> None:
    sender = WeightSender([], rank=0, device=CPU, wire_dtype="float32")
    bystander = WeightSender([], rank=1, device=CPU, wire_dtype="float32")
    for _ in range(2):
        sender.connect(MEETING)
        bystander.connect(MEETING)
    assert [(member.rank, member.is_open) for member in members] == [(0, False), (0, True)]
