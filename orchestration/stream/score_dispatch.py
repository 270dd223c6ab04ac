"""The learner's forward passes over a batch, begun while its last groups are being generated.

In: references of groups that will be in the next batch. Out: calls to the learner, which keeps the logprobs until the
batch is loaded. Which groups these are, and when there is time, is group_stream.py's business.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import ray

from learner.contract import TrainBatch
from learner.spec import LearnerSpec
from orchestration.stream.batches import to_scoring_batch


class ScoringLearner(Protocol):
    """The learner, as far as it computes logprobs of groups whose batch is not complete yet."""

    @property
    def spec(self) -> LearnerSpec: ...

    @property
    def is_scoring(self) -> bool: ...

    def score_ahead(self, batch: TrainBatch) -> None: ...


class ScoreDispatcher:
    """Sends each group to the learner once, what has come meanwhile in one call: rows of few sequences cost more."""

    def __init__(self, learner: ScoringLearner) -> None:
        self._learner = learner
        self._sent: set[int] = set()  # positions in the stream, of the batch to come

    def offer(self, groups: Mapping[int, Any]) -> bool:
        """Has the learner score those of the groups that it was not sent yet, unless it is still at the last ones.

        groups: references of PromptGroups by their prompts' positions in the stream. Waits for nothing but the groups'
        data. True where some were not sent and should be offered again soon.
        """
        waiting = [position for position in groups if position not in self._sent]
        if not waiting:
            return False
        if self._learner.is_scoring:
            return True
        self._learner.score_ahead(to_scoring_batch(ray.get([groups[position] for position in waiting])))
        self._sent.update(waiting)
        return False

    def end_batch(self) -> None:
        """The batch is complete; what is offered next belongs to another."""
        self._sent.clear()


def dispatcher_for(learner: ScoringLearner, *, max_staleness: int) -> ScoreDispatcher | None:
    """A dispatcher to this learner; None where load() makes no forward pass, and in a synchronous run.

    What is scored together depends on who finishes first, and rounding on that, but a synchronous run is to be the same
    bit for bit.
    """
    return ScoreDispatcher(learner) if max_staleness > 0 and learner.spec.scores_batches else None
