"""Where a run may be stopped without loss: at the end of an iteration, until the weights change again.

In: the loop's word when the weights begin to change and when an iteration is complete. Out: the state that the learner
still has, saved when a signal stops the run. Knows nothing of how a checkpoint is made.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestration.checkpoints.state import RunState
from orchestration.terminal.stopping import Stopping


class Boundary:
    """The last complete iteration of a run. Between leave() and reach() a signal waits, at most checkpoint.grace_s."""

    def __init__(self, stopping: Stopping, state: RunState) -> None:
        """state: that of the checkpoint from which the run continues, or a fresh one."""
        self.state: RunState | None = state  # None while the learner's weights are not those of a state
        self.completed = state.iteration  # iterations
        self.has_begun = False
        self._saved = state.iteration
        self._stopping = stopping

    def begin(self, state: RunState) -> None:
        """The learner has the weights of this state, which is saved: the run begins, or begins again after a fault."""
        self._saved = state.iteration
        self.reach(state)

    def leave(self) -> None:
        """From here on the weights change."""
        self._stopping.hold()
        self.state = None

    def reach(self, state: RunState) -> None:
        """An iteration is complete, its row written."""
        self.state, self.completed = state, state.iteration
        self._stopping.release()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Around the saving of the state: a signal waits for it as well."""
        with self._stopping.postpone():
            yield
            self._saved = self.completed

    @contextmanager
    def saved_when_stopped(self, save: Callable[[RunState], None], log: Callable[[str], None]) -> Iterator[None]:
        """Saves the state when a signal stops what is inside, unless it is saved or the time for it is over."""
        self.has_begun = True
        try:
            yield
        except KeyboardInterrupt:
            is_asked = isinstance(self._stopping.reason, KeyboardInterrupt) and not self._stopping.is_hurried
            if is_asked and self.state is not None and self.state.iteration > self._saved:
                try:
                    with self._stopping.urgent(), self.saving():
                        save(self.state)
                except (KeyboardInterrupt, RuntimeError, OSError) as error:
                    log(f"the state after {self.completed} iterations is not saved: {error or 'no time left'}")
            raise
        except Exception:
            self.state = None  # the learner may be gone
            self._stopping.release()
            raise
