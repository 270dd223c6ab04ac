"""The interface of a source of graded batches: a live stream, a replay, or a stream that is recorded."""

from typing import Protocol

from orchestration.stream.positions import StreamPositions
from rollout.contract import GradedGroup


class GroupSource(Protocol):
    """Graded batches, one iteration at a time."""

    def admit(self, published_version: int) -> None: ...

    def take(self, iteration: int) -> list[GradedGroup]: ...

    def positions(self) -> StreamPositions: ...

    def summary(self) -> dict[str, float]: ...
