"""Saves checkpoints while training goes on.

In: the state after an iteration. Out: a checkpoint in the store, committed once the learner ranks have written their
copies. At most one is in flight. Knows nothing of what the ranks write.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

from orchestration.checkpoints.state import RunState
from orchestration.checkpoints.store import CheckpointStore
from orchestration.terminal.stopping import is_hurried, urgent
from transfer.fingerprints import Fingerprint


class SavingLearner(Protocol):
    """Copies its state at once and writes it while other calls go on."""

    def save(self, path: str, *, pretrained: bool) -> None: ...

    @property
    def is_saving(self) -> bool: ...

    def await_saved(self) -> Mapping[str, Fingerprint]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """A checkpoint that the ranks are writing."""

    folder: Path
    state: RunState
    evaluation: Mapping[str, float]
    start_s: float  # time of start()
    copied_s: float  # time at which training could go on


class CheckpointSaver:
    """`with CheckpointSaver(...) as saver:` around the iterations; what was started is finished on the way out."""

    def __init__(
        self, store: CheckpointStore, learner: SavingLearner, *, pretrained: bool, log: Callable[[str], None]
    ) -> None:
        """pretrained: save the weights as a Hugging Face folder too. log: takes one line."""
        self._store = store
        self._learner = learner
        self._pretrained = pretrained
        self._log = log
        self._pending: Pending | None = None

    def start(self, state: RunState, *, evaluation: Mapping[str, float] | None = None) -> None:
        """Saves the state; returns once it is copied. Waits for the checkpoint before, if that is still written.

        evaluation: metrics of these weights, if they were evaluated.
        """
        started = time.monotonic()
        self.finish()
        folder = self._store.begin(state.iteration)
        self._learner.save(str(folder), pretrained=self._pretrained)
        self._pending = Pending(
            folder=folder, state=state, evaluation=evaluation or {}, start_s=started, copied_s=time.monotonic()
        )

    def poll(self) -> None:
        """Commits the checkpoint in flight if it is written; does not wait."""
        if self._pending is not None and not self._learner.is_saving:
            self.finish()

    def finish(self) -> None:
        """Waits until no checkpoint is in flight. Raises what kept the ranks from writing it."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        files = self._learner.await_saved()
        seconds = {
            "training_waited_s": pending.copied_s - pending.start_s,
            "written_after_s": time.monotonic() - pending.start_s,
        }
        self._store.commit(pending.folder, pending.state, files, evaluation=pending.evaluation, seconds=seconds)

    def __enter__(self) -> "CheckpointSaver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        iteration = self._pending.state.iteration if self._pending is not None else 0
        try:
            if error is not None and is_hurried():
                self.poll()
            else:
                with urgent():
                    self.finish()
        except (KeyboardInterrupt, RuntimeError, OSError) as failure:
            if error is None:
                raise
            # must not hide what ended the run, and often follows from it: a rank has died
            self._log(f"the checkpoint after {iteration} iterations was not finished: {failure or 'no time left'}")
