"""The faults of a run: one line each on the console, a count for metrics.jsonl, and a bound on restarts an hour.

In: what was lost, and Ray's error. Out: metrics, or TooManyFaults. The error's whole text goes to the log. Knows
neither engines nor learners nor graders, nor how they are started again.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Literal

from transfer.last_hour import LastHour

Kind = Literal["engines", "learners", "graders"]

logger = logging.getLogger(__name__)


class TooManyFaults(RuntimeError):
    """More was lost within an hour than recovery.max_restarts allows to start again; the message names it."""


class Faults:
    """Counts what was lost and is started again."""

    def __init__(
        self, tell: Callable[[str], None], *, max_restarts: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """tell: prints a line for the person at the terminal."""
        self._tell = tell
        self._max_restarts = max_restarts
        self._last_hour = LastHour(clock=clock)
        self._uncounted: deque[Kind] = deque()  # a fault each; several threads append

    def admit(self, kind: Kind, what: str, error: BaseException) -> str:
        """Takes note of a fault; words on the restart, for the line that the caller tells.

        Raises TooManyFaults where it must not be followed by a restart.
        """
        self._note(kind, what, error)
        recent = self._last_hour.add(what)
        limit = f"recovery.max_restarts={self._max_restarts}"
        if self._max_restarts == 0:
            raise TooManyFaults(f"{what}; {limit}: nothing is started again") from error
        if len(recent) > self._max_restarts:
            raise TooManyFaults(f"{what}; {limit} an hour are used up, the first for: {recent[0]}") from error
        return f"{len(recent)} of at most {self._max_restarts} restarts an hour"

    def replaced(self, kind: Kind, line: str, error: BaseException | None) -> None:
        """Counts and tells a fault whose restarts somebody else limits; may be called from any thread."""
        self._note(kind, line, error)
        self._tell(line)

    def tell(self, line: str) -> None:
        """One line on the console and in the log."""
        logger.warning("%s", line)
        self._tell(line)

    def drain(self) -> dict[str, float]:
        """The counts since the last call, by their names in metrics.jsonl; none that is 0."""
        kinds = [self._uncounted.popleft() for _ in range(len(self._uncounted))]
        return {f"faults/{kind}": float(number) for kind, number in Counter(kinds).items()}

    def _note(self, kind: Kind, line: str, error: BaseException | None) -> None:
        logger.warning("%s", line, exc_info=error)
        self._uncounted.append(kind)
