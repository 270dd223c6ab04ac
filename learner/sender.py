"""The sending half of a publish, run on every learner rank.

In: the policy's weights. Out: one buffer a parameter group, broadcast by rank 0 in the engines' wire dtype, and the
digests of what was sent. Under ZeRO-3 all ranks gather one group at a time, so no rank ever holds the whole model.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from learner.model.weights import PublishedWeight, changing_weights
from learner.model.zero import gathered, whole_shape
from transfer.communicator import join
from transfer.transport import Rendezvous, Transfer, Transport
from transfer.wire import BufferPool, ParameterGroup, ParameterMeta, digest, fits_in_flight, group_parameters, pack


@dataclass(frozen=True, kw_only=True, slots=True)
class SendReport:
    """What rank 0 sent in one publish."""

    digests: dict[str, str]  # parameter group label -> digest; empty if not verified
    num_bytes: int  # bytes sent to each engine worker
    send_s: float  # seconds from the first gather to the end of the last broadcast


class WeightSender:
    """Sends a policy's weights; every learner rank holds one, only rank 0 is a member of the transport."""

    def __init__(self, weights: Sequence[PublishedWeight], *, rank: int, device: torch.device, wire_dtype: str) -> None:
        self._weights = {weight.name: weight for weight in weights}
        self._rank = rank
        self._device = device
        self._buffers = BufferPool(device)
        self._transport: Transport | None = None
        self.groups = _grouped(weights, wire_dtype)
        self.changing_groups = _grouped(changing_weights(weights), wire_dtype)

    def connect(self, rendezvous: Rendezvous) -> None:
        """Waits for every engine worker on rank 0; the other ranks return at once."""
        if self._rank != 0:
            return
        if (
            self._transport is not None
        ):  # old members leave before the new group forms: an engine may have been replaced
            self._transport.close()
        self._transport = join(rendezvous, rank=0, device=self._device)

    def send(self, *, verify: bool, only_changing: bool) -> SendReport:
        """Broadcasts all groups, or the changing ones, in wire order. Collective over the learner ranks under ZeRO-3.

        Adapters are merged into what is sent; the policy's weights do not change.
        """
        started = time.perf_counter()
        groups = self.changing_groups if only_changing else self.groups
        digests: dict[str, str] = {}
        in_flight: deque[tuple[ParameterGroup, Transfer]] = deque()
        failure: RuntimeError | None = None
        for group in groups:
            members = [self._weights[meta.name] for meta in group.parameters]
            with gathered([parameter for weight in members for parameter in weight.parameters]):
                if self._rank != 0 or failure is not None:
                    continue
                try:
                    buffer = self._start(group, members, in_flight)
                except RuntimeError as error:  # a peer is gone; the other ranks gather on, and wait for this one
                    failure = error
                    continue
            if verify:
                digests[group.label] = digest(buffer)
        if self._transport is not None:
            with self._transport.closed_on_failure():
                if failure is not None:
                    raise failure
                for _, transfer in in_flight:
                    transfer.wait()
        num_bytes = sum(group.num_bytes for group in groups)
        return SendReport(digests=digests, num_bytes=num_bytes, send_s=time.perf_counter() - started)

    def _start(
        self,
        group: ParameterGroup,
        members: Sequence[PublishedWeight],
        in_flight: deque[tuple[ParameterGroup, Transfer]],
    ) -> torch.Tensor:
        """Begins to send the group once there is room beside those under way; the buffer that it travels in."""
        assert self._transport is not None, "send() before connect()"
        while not fits_in_flight(group, [sent for sent, _ in in_flight]):
            in_flight.popleft()[1].wait()
        buffer = self._buffers.take(group)
        pack(group, (weight.value() for weight in members), buffer)
        in_flight.append((group, self._transport.start(buffer)))
        return buffer


def _grouped(weights: Sequence[PublishedWeight], wire_dtype: str) -> list[ParameterGroup]:
    return group_parameters(
        ParameterMeta(name=weight.name, dtype_name=wire_dtype, shape=whole_shape(weight.base)) for weight in weights
    )
