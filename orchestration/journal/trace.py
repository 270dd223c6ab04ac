"""trace.json of a run: spans as trace events for chrome://tracing and ui.perfetto.dev.

In: Spans, a batch for each iteration. Out: a JSON array with one event on each line, valid after every write; its last
spans can be read back. Opening the file for writing repairs an end that a crash has cut.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from configs.files import naming, write_atomically
from orchestration.journal.sink import Sink
from transfer.spans import Kind, Span

KINDS: tuple[Kind, ...] = get_args(Kind)
HEAD, SEPARATOR, TAIL = "[\n", ",\n", "\n]\n"
SPAN_PHASE = "X"  # phase of a complete event, which has a begin and a duration
MICROSECONDS = 1_000_000
# A publish may begin before completions in flight end, but events of one thread must be nested: it has its own thread.
OWN_LANE = ("engine", "publish")
READ_LIMIT_BYTES = 4 * 2**20  # length of the end that is read: hundreds of iterations


class TraceFile(Sink):
    """trace.json, appended to where it exists. A kill between two writes leaves valid JSON."""

    def __init__(self, path: Path) -> None:
        if path.exists():
            _repair(path)
        else:
            path.write_text(_document(_process_names()), encoding="utf-8")
        self._path = path
        self._file = path.open("r+b", buffering=0)
        self._named: set[tuple[int, int]] = set()

    def write_spans(self, spans: Sequence[Span]) -> None:
        """Adds spans in one write over the closing bracket; the system decides when it reaches the disk."""
        if not spans:
            return
        events = [*self._new_names(spans), *map(_event, spans)]
        with naming(self._path):
            self._file.seek(-len(TAIL), 2)
            self._file.write((SEPARATOR + _joined(events) + TAIL).encode())

    def close(self, *, failed: bool) -> None:
        self._file.close()

    def _new_names(self, spans: Sequence[Span]) -> Iterable[dict[str, Any]]:
        for span in spans:
            place = _place(span)
            if place not in self._named:
                self._named.add(place)
                label = f"{span.track} {span.name}" if (span.kind, span.name) == OWN_LANE else span.track
                yield _name_event("thread_name", *place, label)


def read_spans(path: Path, *, limit_bytes: int = READ_LIMIT_BYTES) -> list[Span]:
    """The spans in the last limit_bytes of a trace, without a line that was cut; none where there is no file."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - limit_bytes))
        lines = file.read().decode("utf-8", errors="replace").split("\n")
    return [_span(event) for event in _events(lines) if event["ph"] == SPAN_PHASE]


def _repair(path: Path) -> None:
    """Makes a file that was cut valid JSON again: keeps complete events and removes the rest."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(TAIL)))
        if file.read() == TAIL.encode():
            return
    events = _events(path.read_text(encoding="utf-8", errors="replace").split("\n")) or _process_names()
    write_atomically(path, _document(events))


def _events(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The events among the lines; an event is one line."""
    found = []
    for line in lines:
        try:
            event = json.loads(line.removesuffix(","))
        except ValueError:  # the brackets, or a line that a crash has cut
            continue
        if isinstance(event, dict) and "ph" in event:
            found.append(event)
    return found


def _document(events: Iterable[dict[str, Any]]) -> str:
    return HEAD + _joined(events) + TAIL


def _joined(events: Iterable[dict[str, Any]]) -> str:
    return SEPARATOR.join(json.dumps(event, separators=(",", ":")) for event in events)


def _event(span: Span) -> dict[str, Any]:
    process, thread = _place(span)
    start_us = round(span.start_s * MICROSECONDS)
    return {
        "name": span.name,
        "cat": span.kind,
        "ph": SPAN_PHASE,
        "ts": start_us,
        "dur": round(span.end_s * MICROSECONDS) - start_us,
        "pid": process,
        "tid": thread,
    }


def _span(event: dict[str, Any]) -> Span:
    start_s = event["ts"] / MICROSECONDS
    return Span(
        name=event["name"],
        kind=event["cat"],
        index=event["tid"] // 2,
        start_s=start_s,
        end_s=start_s + event["dur"] / MICROSECONDS,
    )


def _place(span: Span) -> tuple[int, int]:
    """Process and thread of a span in the trace: a kind is a process, and each of its actors has two threads."""
    return KINDS.index(span.kind), 2 * span.index + int((span.kind, span.name) == OWN_LANE)


def _process_names() -> list[dict[str, Any]]:
    return [_name_event("process_name", number, 0, f"{kind}s") for number, kind in enumerate(KINDS)]


def _name_event(name: str, process: int, thread: int, label: str) -> dict[str, Any]:
    return {"name": name, "ph": "M", "pid": process, "tid": thread, "args": {"name": label}}
