"""Spans: what a process did, from when to when; every actor and the driver keep a log of theirs.

In: the begin and end of pieces of work. Out: Spans, in the order in which they ended, handed out once. Knows neither
who collects them nor what they are for. One thread (or one event loop) writes a log.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["driver", "engine", "learner", "grader"]
MAX_SPANS = 10_000  # most spans of a log, which an evaluation's engines never drain; beyond it the oldest are lost


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """One piece of work. Unix time, so that spans of several machines meet on one axis as far as their clocks agree."""

    name: str
    kind: Kind  # kind of the process
    index: int  # among the processes of its kind
    start_s: float
    end_s: float

    @property
    def track(self) -> str:
        """The row of a picture that it belongs to, such as "engine 0"."""
        return self.kind if self.kind == "driver" else f"{self.kind} {self.index}"


class SpanLog:
    """The spans of one process. merge_gap_s: a span that begins sooner after one of its name lengthens that one."""

    def __init__(
        self, kind: Kind, index: int = 0, *, merge_gap_s: float = 0.0, clock: Callable[[], float] = time.time
    ) -> None:
        self._kind = kind
        self._index = index
        self._merge_gap_s = merge_gap_s
        self._clock = clock
        self._spans: deque[Span] = deque(maxlen=MAX_SPANS)
        self._started: dict[str, float] = {}  # starts of the spans under way, by name
        self._num_under_way: dict[str, int] = {}

    def now(self) -> float:
        """The log's clock, for add()."""
        return self._clock()

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """A span as long as the block, however it ends.

        Blocks of one name that overlap make one span, from the first begin to the last end: the time in which the
        process was busy with at least one.
        """
        if not self._num_under_way.get(name):
            self._started[name] = self._clock()
        self._num_under_way[name] = self._num_under_way.get(name, 0) + 1
        try:
            yield
        finally:
            self._num_under_way[name] -= 1
            if not self._num_under_way[name]:
                self.add(name, self._started.pop(name))

    def add(self, name: str, start_s: float) -> None:
        """A span from start_s until now."""
        end_s = max(start_s, self._clock())  # the clock of a machine may be set back
        last = self._spans[-1] if self._spans else None
        if last is not None and last.name == name and start_s - last.end_s < self._merge_gap_s:
            self._spans[-1] = replace(last, end_s=end_s)
        else:
            self._spans.append(Span(name=name, kind=self._kind, index=self._index, start_s=start_s, end_s=end_s))

    def drain(self) -> tuple[Span, ...]:
        """All spans since the last call. One still under way is cut here: its rest is handed out when it has ended."""
        for name, start_s in self._started.items():
            self.add(name, start_s)
            self._started[name] = max(start_s, self._clock())
        spans = tuple(self._spans)
        self._spans.clear()
        return spans
