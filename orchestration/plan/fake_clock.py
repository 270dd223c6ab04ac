"""A clock that is told what time it is: events in order of time, processes as generators.

In: work in seconds of a part that has its device to itself. Out: the time at which it is done where parts share cores:
while n of them compute, each runs at rate(n). All slow down alike, so one queue ordered by work done serves all.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

Action = Callable[[], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a process waits for: so many seconds of work done by num_busy parts at once."""

    seconds: float
    num_busy: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Until:
    """What a process waits for: a condition that others make true."""

    holds: Callable[[], bool]


Process = Iterator[Work | Until]


class FakeClock:
    """Runs actions when their work is done. `now` is in seconds from 0."""

    def __init__(self, rate: Callable[[int], float]) -> None:
        self.now = 0.0
        self._rate = rate
        self._done = 0.0  # work that each part could have done by now
        self._num_busy = 0
        self._order = count()  # of actions that are due at once
        self._due: list[tuple[float, int, Action]] = []
        self._cancelled: set[int] = set()
        self._waiting: list[tuple[Until, Process]] = []

    @property
    def work_done(self) -> float:
        """Seconds of work that a part which has always been busy would have done by now."""
        return self._done

    def busy(self, change: int) -> None:
        """So many more parts compute from now on; negative: fewer."""
        self._num_busy += change
        assert self._num_busy >= 0, f"{self._num_busy} parts compute"

    def after(self, seconds: float, action: Action) -> int:
        """Runs the action once so much work is done; the number by which it can be cancelled."""
        assert seconds >= 0.0, seconds
        number = next(self._order)
        heapq.heappush(self._due, (self._done + seconds, number, action))
        return number

    def cancel(self, number: int) -> None:
        self._cancelled.add(number)

    def start(self, process: Process) -> None:
        """Runs the process up to its first wait, and goes on with it whenever that wait is over."""
        wait = next(process, None)
        match wait:
            case Work():
                self.busy(wait.num_busy)
                self.after(wait.seconds, lambda: self._worked(wait, process))
            case Until():
                self._waiting.append((wait, process))

    def run(self) -> None:
        """Until no action is left. RuntimeError where a process still waits then: nobody can wake it."""
        self._wake()
        while self._due:
            due, number, action = heapq.heappop(self._due)
            if number in self._cancelled:
                self._cancelled.remove(number)
                continue
            self.now += (due - self._done) / self._rate(self._num_busy)
            self._done = due
            action()
            self._wake()
        if self._waiting:
            raise RuntimeError(f"{len(self._waiting)} simulated process(es) wait for what never happens")

    def _worked(self, wait: Work, process: Process) -> None:
        self.busy(-wait.num_busy)
        self.start(process)

    def _wake(self) -> None:
        """Goes on with processes whose condition holds; one that goes on may make another's true."""
        while ready := [entry for entry in self._waiting if entry[0].holds()]:
            self._waiting = [entry for entry in self._waiting if entry not in ready]
            for _, process in ready:
                self.start(process)
