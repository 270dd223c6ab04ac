"""What a journal does with spans: the trace's events, idle shares in the rows, advice on the console."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from configs.schema import JournalConfig
from orchestration.journal.journal import Journal
from orchestration.journal.trace import read_spans
from transfer.spans import Span, SpanLog


class Clock:
    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("orchestration.journal.journal.SpanLog", lambda kind: SpanLog(kind, clock=lambda: clock.now))
    return clock


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "orchestration.pages.figures.save_panels", lambda *_, **__: None
    )  # slow, and not the point here


def open_journal(
    folder: Path, *, trace: bool = True, start_iteration: int = 0, out: io.StringIO | None = None
) -> Journal:
    return Journal(
        folder,
        config=JournalConfig(tensorboard=False, trace=trace),
        num_iterations=40,
        max_staleness=0,
        gate_name="softsign",
        start_iteration=start_iteration,
        console=Console(file=out or io.StringIO(), width=200),
    )


def run_iteration(journal: Journal, iteration: int, clock: Clock) -> None:
    """10 s, of which the engine works 2 s, the learner 6 s; then 2 s in which only the driver is at work."""
    with journal.iteration(iteration) as entry:
        begin = clock.now
        with entry.timed("wait"):
            clock.now += 4.0
        with entry.span("publish"):
            clock.now += 6.0
        entry.record_spans(actor_spans(begin))
        clock.now += 2.0


def actor_spans(begin: float) -> Iterator[Span]:
    yield Span(name="generate", kind="engine", index=0, start_s=begin - 5.0, end_s=begin + 2.0)
    yield Span(name="step", kind="learner", index=0, start_s=begin + 4.0, end_s=begin + 10.0)


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_idle_shares_run_to_the_end_of_the_last_stage(tmp_path: Path, clock: Clock) -> None:
    with open_journal(tmp_path) as journal:
        run_iteration(journal, 0, clock)
    (row,) = rows(tmp_path)
    assert row["idle/engines"] == pytest.approx(0.8)
    assert row["idle/learner"] == pytest.approx(0.4)
    assert "time/publish_s" not in row, "a stage that tells its time by itself"


def test_the_trace_has_the_spans_of_driver_and_actors(tmp_path: Path, clock: Clock) -> None:
    with open_journal(tmp_path) as journal:
        run_iteration(journal, 0, clock)
        json.loads((tmp_path / "trace.json").read_text())
        with journal.span("evaluate"):
            clock.now += 3.0
    found = {(span.track, span.name): (span.start_s, span.end_s) for span in read_spans(tmp_path / "trace.json")}
    assert found == {
        ("driver", "iteration"): (1000.0, 1012.0),
        ("driver", "wait"): (1000.0, 1004.0),
        ("driver", "publish"): (1004.0, 1010.0),
        ("driver", "evaluate"): (1012.0, 1015.0),
        ("engine 0", "generate"): (995.0, 1002.0),
        ("learner 0", "step"): (1004.0, 1010.0),
    }


def fail_in_publish(folder: Path, clock: Clock) -> None:
    with open_journal(folder) as journal, journal.iteration(0) as entry, entry.span("publish"):
        clock.now += 7.0
        raise OSError("engine gone")


def test_after_a_failure_the_trace_shows_where_it_struck(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(OSError, match="engine gone"):
        fail_in_publish(tmp_path, clock)
    names = {span.name: span.end_s - span.start_s for span in read_spans(tmp_path / "trace.json")}
    assert names == {"publish": 7.0, "iteration": 7.0}


def test_a_resumed_run_goes_on_in_the_same_trace(tmp_path: Path, clock: Clock) -> None:
    for iteration in range(2):
        with open_journal(tmp_path, start_iteration=iteration) as journal:
            run_iteration(journal, iteration, clock)
    json.loads((tmp_path / "trace.json").read_text())
    iterations = [span.start_s for span in read_spans(tmp_path / "trace.json") if span.name == "iteration"]
    assert iterations == [1000.0, 1012.0]


def test_without_a_trace_idle_shares_are_still_there(tmp_path: Path, clock: Clock) -> None:
    with open_journal(tmp_path, trace=False) as journal:
        run_iteration(journal, 0, clock)
    assert not (tmp_path / "trace.json").exists()
    assert rows(tmp_path)[0]["idle/engines"] == pytest.approx(0.8)


def test_advice_is_a_line_of_the_log_after_ten_iterations_and_at_the_end(tmp_path: Path, clock: Clock) -> None:
    out = io.StringIO()
    with open_journal(tmp_path, out=out) as journal:
        for iteration in range(25):
            run_iteration(journal, iteration, clock)
    lines = out.getvalue().splitlines()
    advice = "engines wait 80% of the time: 1 more learner rank or max_staleness=1 would help"
    assert [number for number, line in enumerate(lines) if line == advice] == [10, 26]
    assert advice in (tmp_path / "run.log").read_text()
