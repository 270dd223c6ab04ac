"""The picture of the last iterations: which spans it shows, and where time begins in it."""

from pathlib import Path

from study_folders import write_run

from orchestration.journal.run_record import read_run
from orchestration.journal.trace import TraceFile
from orchestration.pages.page import Figures
from orchestration.report.gantt import ROWS_PER_KIND, gantt_svg, last_iterations
from orchestration.report.run_report import time_blocks
from transfer.spans import Kind, Span


def span(name: str, kind: Kind, index: int, start_s: float, end_s: float) -> Span:
    return Span(name=name, kind=kind, index=index, start_s=start_s, end_s=end_s)


def run_of(num_iterations: int, *, num_engines: int = 1) -> list[Span]:
    spans = []
    for k in range(num_iterations):
        begin = 1000.0 + 10.0 * k
        spans += [
            span("wait", "driver", 0, begin, begin + 5.0),
            span("update", "driver", 0, begin + 5.0, begin + 9.0),
            span("iteration", "driver", 0, begin, begin + 10.0),
            span("step", "learner", 0, begin + 5.0, begin + 9.0),
        ]
        spans += [span("generate", "engine", index, begin, begin + 5.0) for index in range(num_engines)]
    return spans


def test_the_window_spans_the_last_iterations() -> None:
    assert last_iterations(run_of(5)) == (1020.0, 1050.0)
    assert last_iterations(run_of(2)) == (1000.0, 1020.0)
    assert last_iterations([span("wait", "driver", 0, 0.0, 1.0)]) is None


def test_only_the_last_iterations_are_drawn_and_time_starts_with_them() -> None:
    assert gantt_svg([]) is None
    picture = gantt_svg(run_of(3))
    assert picture is not None
    assert picture.startswith(b"<?xml")
    later = [span(s.name, s.kind, s.index, s.start_s + 3600.0, s.end_s + 3600.0) for s in run_of(3)]
    assert gantt_svg(run_of(3) + later) == picture, "an hour later the picture is the same"
    other = gantt_svg([*run_of(3), span("evaluate", "driver", 0, 1025.0, 1026.0)])
    assert other != picture


def test_of_many_engines_the_first_are_drawn() -> None:
    assert gantt_svg(run_of(1, num_engines=100)) == gantt_svg(run_of(1, num_engines=ROWS_PER_KIND))


def test_an_unknown_stage_is_drawn_too() -> None:
    assert gantt_svg([*run_of(1), span("tidy", "driver", 0, 1001.0, 1002.0)]) != gantt_svg(run_of(1))


def test_a_report_has_the_picture_where_the_run_kept_a_trace(tmp_path: Path) -> None:
    record = read_run(write_run(tmp_path / "run"))
    assert time_blocks(record) == []
    trace = TraceFile(record.folder / "trace.json", limit_bytes=2**30)
    trace.write_spans(run_of(4))
    trace.close(failed=False)
    _, figures = time_blocks(record)
    assert isinstance(figures, Figures)
    assert [figure.svg for figure in figures.items] == [gantt_svg(run_of(4))]
