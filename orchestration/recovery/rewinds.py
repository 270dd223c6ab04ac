"""Rewinds: when the learner is lost, the run goes back to its newest checkpoint and on from there, in this process.

In: a function that runs from a checkpoint to the end, and the store. Out: what the function returns. What is retried
is the loss of processes and of their objects; errors that would repeat end the run. Knows nothing of the parts.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from learner.group import LearnerLost
from orchestration.checkpoints.state import RunState
from orchestration.checkpoints.store import CheckpointStore
from orchestration.recovery.faults import Faults
from orchestration.stream.group_stream import GroupsLost
from orchestration.terminal.console import duration

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Where a run begins or goes on."""

    checkpoint: Path | None  # folder that the learner restores; None: the initial model
    state: RunState

    def describe(self) -> str:
        return "its start" if self.checkpoint is None else f"its checkpoint after iteration {self.state.iteration}"


class Rewinds:
    """The attempts of one run."""

    def __init__(self, store: CheckpointStore, faults: Faults, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._faults = faults
        self._clock = clock
        self._has_begun = False
        self._lost_at: float | None = None

    def run(self, attempt: Callable[[Start], ResultT], start: Start) -> ResultT:
        """Calls attempt(start), and again from the newest checkpoint as often as it loses the learner. TooManyFaults.

        A learner that is lost before begun() was called has never worked: that ends the run.
        """
        while True:
            try:
                return attempt(start)
            except (LearnerLost, GroupsLost) as error:
                if not self._has_begun:
                    raise
                words = self._faults.admit("learners", str(error), error)
                self._lost_at = self._clock()
                start = self._newest()
                self._faults.tell(f"{error}; the run goes back to {start.describe()} ({words})")

    def begun(self) -> None:
        """Says that all parts stand and the next iteration begins."""
        self._has_begun = True
        if self._lost_at is not None:
            self._faults.tell(f"the learner is back after {duration(self._clock() - self._lost_at)}")
            self._lost_at = None

    def _newest(self) -> Start:
        checkpoint, state = self._store.latest() or (None, RunState.fresh())
        return Start(checkpoint=checkpoint, state=state)
