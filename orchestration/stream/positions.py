"""Positions of the prompt stream: those that a run has given out, and those of groups it has not trained yet.

In: what a checkpoint remembered. Out: the next position to generate, each once. A group that was in flight when the run
stopped is generated again, before anything new. Nothing here knows prompts, batches or time.
"""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamPositions:
    """The state of the stream that a resume needs to go on with the same prompts.

    Example: unused=40, open=(30, 33, 39): of the positions below 40 all but three were trained or replaced.
    """

    unused: int  # the lowest position that was never given out
    open: tuple[int, ...]  # positions given out and not trained, in the order of admission

    def __post_init__(self) -> None:
        if any(type(position) is not int for position in (self.unused, *self.open)):
            raise ValueError(f"unused={self.unused}, open={self.open}: positions are whole numbers")
        if len({*self.open, self.unused}) != len(self.open) + 1 or not all(0 <= p < self.unused for p in self.open):
            raise ValueError(
                f"unused={self.unused}, open={self.open}: open positions must differ and lie from 0 to below unused"
            )


FRESH = StreamPositions(unused=0, open=())  # the state of a run that has not begun


class PositionSource:
    """Gives out positions: first the open ones of an interrupted run, then unused ones."""

    def __init__(self, start: StreamPositions) -> None:
        self._unused = start.unused
        self._again = deque(start.open)

    def next(self) -> int:
        if self._again:
            return self._again.popleft()
        self._unused += 1
        return self._unused - 1

    def state(self, in_flight: tuple[int, ...]) -> StreamPositions:
        """in_flight: positions given out whose groups are not trained, in the order of admission."""
        return StreamPositions(unused=self._unused, open=(*in_flight, *self._again))
