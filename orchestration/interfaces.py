"""The interfaces that the loop calls; the parts of a run with engines and those of a replay implement them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from learner.contract import StepReport, TrainBatch
from orchestration.journal.eval_rows import Evaluation
from orchestration.stream.source import GroupSource
from transfer.fingerprints import Fingerprint
from transfer.spans import Span


class Published(Protocol):
    """A finished publish."""

    def metrics(self) -> dict[str, float]:
        """Values by their names in metrics.jsonl."""
        ...


class Publisher(Protocol):
    """Sends the learner's weights to the engines."""

    def publish(self, version: int) -> Published: ...


class Learner(Protocol):
    """Trains on the loaded batch; saves and restores its state."""

    def load(self, batch: TrainBatch, iteration: int) -> None: ...

    def steps(self) -> Iterator[StepReport]: ...

    def save(self, path: str, *, pretrained: bool) -> None: ...

    @property
    def is_saving(self) -> bool: ...

    def await_saved(self) -> Mapping[str, Fingerprint]: ...

    def restore(self, path: str) -> None: ...

    def save_pretrained(self, path: str) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorStatus:
    """Report of all actors at the end of an iteration, after its last stage."""

    metrics: dict[str, float]  # values by their names in metrics.jsonl
    spans: tuple[Span, ...]  # work since the last report; of graders, as far as they have answered


class RunParts(Protocol):
    """Everything that the loop calls, except journal and checkpoint store."""

    @property
    def learner(self) -> Learner: ...

    @property
    def channel(self) -> Publisher: ...

    @property
    def groups(self) -> GroupSource: ...

    def evaluate(self) -> Evaluation:
        """Evaluation of the weights published last; without metrics where there are no engines."""
        ...

    def status(self) -> ActorStatus: ...

    def last_spans(self) -> tuple[Span, ...]:
        """Work of the actors after the last iteration: the evaluation at the end."""
        ...
