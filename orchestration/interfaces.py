"""What the loop asks of the parts of a run, as protocols: live parts and those of a replay answer alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from learner.contract import StepReport, TrainBatch
from orchestration.journal.eval_rows import Evaluation
from orchestration.stream.source import GroupSource
from transfer.spans import Span


class Published(Protocol):
    """One publish, done; metrics by their names in metrics.jsonl."""

    def metrics(self) -> dict[str, float]: ...


class Publisher(Protocol):
    """Brings the learner's weights to those who sample."""

    def publish(self, version: int) -> Published: ...


class Learner(Protocol):
    """Trains on the loaded batch and saves itself."""

    def load(self, batch: TrainBatch, iteration: int) -> None: ...

    def steps(self) -> Iterator[StepReport]: ...

    def save(self, path: str) -> None: ...

    def restore(self, path: str) -> None: ...

    def save_pretrained(self, path: str) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """What actors tell of themselves at the end of an iteration, when all its stages are done."""

    metrics: dict[str, float]  # by their names in metrics.jsonl
    spans: tuple[Span, ...]  # what they did since they told last; of graders, as far as they have answered by now


class RunParts(Protocol):
    """Everything the loop calls, beside journal and checkpoint store."""

    @property
    def learner(self) -> Learner: ...

    @property
    def channel(self) -> Publisher: ...

    @property
    def groups(self) -> GroupSource: ...

    def evaluate(self) -> Evaluation:
        """Of the weights published last; without metrics where nothing can evaluate."""
        ...

    def standing(self) -> Standing: ...

    def last_spans(self) -> tuple[Span, ...]:
        """What actors did after the last iteration, in the evaluation at the end."""
        ...
