"""What has happened within the last hour, for limits that are a rate and not a budget for life."""

import time
from collections import deque
from collections.abc import Callable

HOUR_S = 3600.0


class LastHour:
    """Events, each a line of text, until they are an hour old."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._events: deque[tuple[float, str]] = deque()

    def add(self, event: str) -> list[str]:
        """Takes note of an event; those of the last hour with it, the oldest first."""
        now = self._clock()
        self._events.append((now, event))
        while now - self._events[0][0] >= HOUR_S:
            self._events.popleft()
        return [text for _, text in self._events]
