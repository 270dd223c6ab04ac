"""Admission and order of batches: how far generation may run ahead of the learner, and which buffer makes the batches.

A run and the planner ask here alike. Knows neither engines nor time.
"""

from dataclasses import dataclass
from typing import Literal

from orchestration.stream.finished_order import LOOKAHEAD, FinishedBuffer
from orchestration.stream.prompt_order import AdmittedT, Buffer, GroupBuffer

BatchOrder = Literal["prompt", "finished"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Admission:
    """The hard bound on staleness: a prompt whose group could be too old when it is consumed is not generated yet.

    Iteration k trains the groups admitted as number k*n up to (k+1)*n - 1 at version k. They are admitted once version
    k - max_staleness is published, so that no token of theirs is more than max_staleness versions old and nothing that
    was generated has to be thrown away. (Batches in another order: finished_order.py.)
    """

    prompts_per_iteration: int
    max_staleness: int  # policy versions

    def allowed(self, published_version: int) -> int:
        """How many prompts, counted from the start of the run, may have been sent to the engines."""
        return (published_version + self.max_staleness + 1) * self.prompts_per_iteration


def admission_for(order: BatchOrder, *, prompts_per_iteration: int, max_staleness: int) -> Admission:
    """How far generation may run ahead, so that no batch in this order has tokens older than max_staleness."""
    ahead = LOOKAHEAD if order == "finished" else max_staleness
    return Admission(prompts_per_iteration=prompts_per_iteration, max_staleness=ahead)


def buffer_for(
    order: BatchOrder, *, prompts_per_iteration: int, max_staleness: int, start_iteration: int = 0
) -> Buffer[AdmittedT]:
    """An empty buffer that gives batches in this order, beginning at start_iteration."""
    if order == "finished":
        return FinishedBuffer(prompts_per_iteration, max_staleness=max_staleness, start_iteration=start_iteration)
    return GroupBuffer(prompts_per_iteration, start_iteration=start_iteration)
