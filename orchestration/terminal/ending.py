"""The block that ends a run which fails or is stopped: what happened, when, what is safe, where to look, how to go on.

In: the exception, and what the run knows of itself. Out: at most six lines on the terminal, once, before anything that
takes time or could fail as well.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from configs.loading import ConfigError
from orchestration.terminal.console import duration
from orchestration.terminal.exit_status import describe, mark_told, status_for
from orchestration.terminal.leaving import decide_status, write_lines
from orchestration.terminal.stopping import Stopping


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a run has come when it ends early."""

    place: str  # iteration that was not finished, in words
    safe: str  # what a resume continues from, in words
    command: str | None  # command that goes on; None where nobody typed one


class Ending:
    """`with ending:` around what may fail, and again around all that follows from it.

    Prints the block when the first exception arrives, and lets only that one out.
    """

    def __init__(self, stopping: Stopping, *, log: Path, progress: Callable[[], Progress | None]) -> None:
        """log: the run's, which lies in its folder; progress: asked for at the end, None where nothing has begun."""
        self._stopping = stopping
        self._log = log
        self._progress = progress
        self._started_at = time.monotonic()
        self._error: BaseException | None = None

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        if self._error is None:
            self._error = self._stopping.settle(error)
            write_lines(self.lines(self._error))
            decide_status(status_for(self._error))
            mark_told(self._error)
        if error is not self._error:
            raise self._error

    def lines(self, error: BaseException) -> list[str]:
        """The block."""
        what = describe(error, folder=self._log.parent)
        if what is None:
            what = f"softgate: {type(error).__name__}: {' '.join(str(error).split())} (its traceback is in the log)"
        if isinstance(error, ConfigError):
            return [what]
        progress = self._progress()
        if progress is None:
            return [what, f"  log: {self._log}"]
        since_start = duration(time.monotonic() - self._started_at)
        lines = [
            what,
            f"  in {progress.place}, {time.strftime('%Y-%m-%d %H:%M:%S')}, {since_start} after the start",
            f"  safe: {progress.safe}",
            f"  log: {self._log}",
        ]
        return [*lines, f"  to go on: {progress.command}"] if progress.command is not None else lines
