"""The log of spans under a clock that the test moves."""

import pytest

from transfer.spans import MAX_SPANS, Span, SpanLog


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def bounds(spans: tuple[Span, ...]) -> list[tuple[str, float, float]]:
    return [(span.name, span.start_s, span.end_s) for span in spans]


def test_spans_come_once_in_the_order_of_their_ends() -> None:
    clock = Clock()
    log = SpanLog("learner", 3, clock=clock)
    with log.span("load"):
        clock.now = 101.0
    start_s = log.now()
    clock.now = 104.0
    log.add("step", start_s)
    spans = log.drain()
    assert bounds(spans) == [("load", 100.0, 101.0), ("step", 101.0, 104.0)]
    assert {span.track for span in spans} == {"learner 3"}
    assert log.drain() == ()


def test_work_side_by_side_is_one_span_from_the_first_begin_to_the_last_end() -> None:
    clock = Clock()
    log = SpanLog("engine", clock=clock)
    first, second = log.span("generate"), log.span("generate")
    first.__enter__()
    clock.now = 101.0
    second.__enter__()
    clock.now = 102.0
    first.__exit__(None, None, None)
    clock.now = 105.0
    second.__exit__(None, None, None)
    clock.now = 107.0
    with log.span("generate"):
        clock.now = 108.0
    assert bounds(log.drain()) == [("generate", 100.0, 105.0), ("generate", 107.0, 108.0)]


def test_a_span_under_way_is_cut_at_a_drain_and_goes_on() -> None:
    clock = Clock()
    log = SpanLog("engine", clock=clock)
    with log.span("generate"):
        clock.now = 103.0
        assert bounds(log.drain()) == [("generate", 100.0, 103.0)]
        clock.now = 104.0
    assert bounds(log.drain()) == [("generate", 103.0, 104.0)]


def fail(log: SpanLog, clock: Clock) -> None:
    with log.span("publish"):
        clock.now = 102.0
        raise OSError("peer gone")


def test_a_failure_ends_its_span() -> None:
    clock = Clock()
    log = SpanLog("driver", clock=clock)
    with pytest.raises(OSError, match="peer gone"):
        fail(log, clock)
    (span,) = log.drain()
    assert (span.track, span.start_s, span.end_s) == ("driver", 100.0, 102.0)


def test_neighbours_of_one_name_merge_within_the_gap_only() -> None:
    clock = Clock()
    log = SpanLog("grader", clock=clock, merge_gap_s=0.5)
    for pause, name in ((0.0, "grade"), (0.25, "grade"), (0.5, "grade"), (0.25, "other")):
        clock.now += pause
        with log.span(name):
            clock.now += 1.0
    assert bounds(log.drain()) == [("grade", 100.0, 102.25), ("grade", 102.75, 103.75), ("other", 104.0, 105.0)]


def test_a_clock_set_back_gives_no_negative_span() -> None:
    clock = Clock()
    log = SpanLog("driver", clock=clock)
    with log.span("wait"):
        clock.now = 90.0
    assert bounds(log.drain()) == [("wait", 100.0, 100.0)]


def test_a_log_that_nobody_drains_keeps_the_newest_spans() -> None:
    clock = Clock()
    log = SpanLog("grader", clock=clock)
    for _ in range(MAX_SPANS + 5):
        clock.now += 1.0
        log.add("grade", clock.now)
    spans = log.drain()
    assert len(spans) == MAX_SPANS
    assert spans[-1].start_s == clock.now
