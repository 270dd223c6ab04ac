"""The interface of a run's outputs.

The journal gives every sink what it has measured and checked; a sink writes it to one place: a file, TensorBoard, the
console. A sink neither measures nor computes metrics.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from orchestration.journal.eval_rows import Evaluation
from rollout.contract import GradedGroup
from transfer.spans import Span

Row = Mapping[str, float]  # row of metrics.jsonl: `iteration`, then the metrics by name


class Sink(Protocol):
    """One output of a run. A method that a sink does not override does nothing; an exception ends the run.

    A sink of a resumed run removes what an interrupted run wrote after the checkpoint when it is created.
    """

    def start(self) -> None:
        """Called once, before the first iteration."""
        return

    def write_groups(self, iteration: int, groups: Sequence[GradedGroup], *, policy_version: int) -> None:
        """Called once an iteration, before its update: the batch, consumed by the learner at policy_version."""
        return

    def write_row(self, row: Row) -> None:
        """Called at the end of each iteration that did not fail."""
        return

    def write_spans(self, spans: Sequence[Span]) -> None:
        """Called with finished spans, at the end of each iteration and of the run."""
        return

    def write_evaluation(self, iteration: int, evaluation: Evaluation) -> None:
        """Called with each evaluation; `iteration` iterations were trained before it."""
        return

    def close(self, *, failed: bool) -> None:
        """Called once at the end of the run; failed: whether an exception ended it."""
        return
