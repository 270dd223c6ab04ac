"""The learner's forward passes over a batch, begun while its last groups are being generated.

In: references of groups that will be in the next batch. Out: calls to the learner, which keeps the logprobs until the
batch is loaded. Which groups these are, and when there is time, is group_stream.py's business.
"""

from collections.abc import Mapping
from typing import Any

import ray

from learner.group import LearnerGroup
from orchestration.stream.batches import to_scoring_batch


class ScoreDispatcher:
    """Sends each group to the learner once, what has come meanwhile in one call: rows of few sequences cost more."""

    def __init__(self, learner: LearnerGroup) -> None:
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


def dispatcher_for(learner: LearnerGroup, *, max_staleness: int) -> ScoreDispatcher | None:
    """A dispatcher to this learner; None where load() makes no forward pass, and in a synchronous run.

    What is scored together depends on who finishes first, and rounding on that, but a synchronous run is to be the same
    bit for bit.
    """
    return ScoreDispatcher(learner) if max_staleness > 0 and learner.spec.scores_batches else None
