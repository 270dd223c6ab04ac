"""trace.json stays valid JSON whatever happens to its writer, and gives back what was written."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestration.journal.trace import TraceFile, read_spans
from transfer.spans import Kind, Span

START_S = 1_790_000_000.0  # unix time, as in a run


def span(name: str, kind: Kind, index: int, start_s: float, end_s: float) -> Span:
    return Span(name=name, kind=kind, index=index, start_s=START_S + start_s, end_s=START_S + end_s)


FIRST = (
    span("wait", "driver", 0, 0.0, 1.5),
    span("generate", "engine", 1, 0.25, 1.25),
    span("publish", "engine", 1, 1.0, 2.0),  # begins before the completions in flight have ended
)
SECOND = (span("step", "learner", 0, 2.0, 3.0), span("grade", "grader", 2, 2.5, 2.75))


def append(path: Path, *batches: Sequence[Span]) -> None:
    """Opens the trace, writes the batches and closes it."""
    trace = TraceFile(path, limit_bytes=2**30)
    for batch in batches:
        trace.write_spans(batch)
    trace.close(failed=False)


def written(path: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = json.loads(path.read_text())
    return events


def test_the_file_is_valid_after_every_append(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    trace = TraceFile(path, limit_bytes=2**30)
    for batch in ((), FIRST, SECOND):
        trace.write_spans(batch)
        written(path)
    assert read_spans(path) == [*FIRST, *SECOND], "and nothing waits for close()"


def test_events_are_what_the_viewers_read(tmp_path: Path) -> None:
    append(tmp_path / "trace.json", FIRST)
    events = written(tmp_path / "trace.json")
    names = {
        (event["name"], event["pid"], event["tid"]): event["args"]["name"] for event in events if event["ph"] == "M"
    }
    generate, publish = (event for event in events if event["ph"] == "X" and event["cat"] == "engine")
    assert (generate["ts"], generate["dur"]) == (round((START_S + 0.25) * 1e6), 1_000_000)
    assert names["process_name", generate["pid"], 0] == "engines"
    assert names["thread_name", generate["pid"], generate["tid"]] == "engine 1"
    assert names["thread_name", publish["pid"], publish["tid"]] == "engine 1 publish"


def test_a_second_writer_goes_on_where_the_first_stopped(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    for batch in (FIRST, SECOND):
        append(path, batch)
    written(path)
    assert read_spans(path) == [*FIRST, *SECOND]


def test_a_file_cut_anywhere_is_repaired_on_open(tmp_path: Path) -> None:
    whole = tmp_path / "whole.json"
    append(whole, FIRST)
    content, path = whole.read_bytes(), tmp_path / "trace.json"
    for length in [*range(0, len(content), 13), *range(len(content) - 20, len(content))]:
        path.write_bytes(content[:length])
        before = read_spans(path)
        append(path, SECOND)
        written(path)
        assert read_spans(path) == [*before, *SECOND]
    assert before == list(FIRST), "the last cut took only the end of the closing bracket"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe nonsense", b'{"not": "ours"}\n'])
def test_what_is_no_trace_gives_way_to_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "trace.json"
    path.write_bytes(content)
    append(path, FIRST)
    assert {event["ph"] for event in written(path)} == {"M", "X"}


def test_of_a_long_trace_only_the_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    append(path, *([span("step", "learner", 0, float(number), number + 0.5)] for number in range(100)))
    last = read_spans(path, limit_bytes=1000)
    assert 5 < len(last) < 20
    assert last[-1] == span("step", "learner", 0, 99.0, 99.5)
    assert read_spans(tmp_path / "none.json") == []
