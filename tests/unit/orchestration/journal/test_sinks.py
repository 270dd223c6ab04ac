"""What a sink of one's own is given, in which order, and that every sink is closed."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from configs.schema import JournalConfig
from orchestration.journal.eval_rows import Evaluation
from orchestration.journal.journal import Journal
from orchestration.journal.sink import Row, Sink
from transfer.spans import Span


class Recorder(Sink):
    """Stands for an output that somebody adds; overrides all but write_groups."""

    events: list[str]
    is_gone = False

    def __init__(self, *_: Any, **__: Any) -> None:
        Recorder.events = []

    def start(self) -> None:
        self.events.append("start")

    def write_row(self, row: Row) -> None:
        self.events.append(f"row {row['iteration']} {row['reward/mean']}")

    def write_spans(self, spans: Sequence[Span]) -> None:
        self.events += [f"span {span.name}" for span in spans]

    def write_evaluation(self, iteration: int, evaluation: Evaluation) -> None:
        self.events.append(f"evaluation {iteration} {dict(evaluation.metrics)}")

    def close(self, *, failed: bool) -> None:
        self.events.append(f"close {failed}")
        if self.is_gone:
            raise OSError("the service is gone")


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *, error: Exception | None) -> list[str]:
    monkeypatch.setattr("orchestration.journal.journal.AdviceLines", Recorder)
    settings: dict[str, Any] = {"num_iterations": 2, "max_staleness": 0, "gate_name": "softsign"}
    console = Console(file=io.StringIO())
    with Journal(folder, config=JournalConfig(tensorboard=False), console=console, **settings) as journal:
        journal.record_eval(0, Evaluation(metrics={"eval/sums/length": 2}, samples={}))
        with journal.iteration(0) as entry:
            entry.record({"reward/mean": 0.5})
        with journal.span("checkpoint"):
            if error is not None:
                raise error
    return Recorder.events


def test_a_sink_gets_everything_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(tmp_path, monkeypatch, error=None) == [
        "start",
        "evaluation 0 {'eval/sums/length': 2}",
        "span iteration",
        "row 0 0.5",
        "span checkpoint",
        "close False",
    ]


@pytest.mark.parametrize(
    ("error", "expected"), [(None, "the service is gone"), (ValueError("in the run"), "in the run")], ids=str
)
def test_a_sink_that_cannot_close_keeps_no_other_open_and_hides_no_error(
    error: Exception | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    monkeypatch.setattr("orchestration.journal.trace.TraceFile.close", lambda self, *, failed: closed.append(failed))
    monkeypatch.setattr(Recorder, "is_gone", True)
    with pytest.raises((OSError, ValueError), match=expected):
        run(tmp_path, monkeypatch, error=error)
    assert closed == [True]
