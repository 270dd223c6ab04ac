"""Idle shares of hand-made spans, and when advice is given."""

import numpy as np
import pytest

from orchestration.journal.balance import ADVICE_EVERY, MIN_ITERATIONS, Adviser, advice, idle_shares
from transfer.spans import Kind, Span


def span(kind: Kind, index: int, start_s: float, end_s: float, name: str = "work") -> Span:
    return Span(name=name, kind=kind, index=index, start_s=start_s, end_s=end_s)


def test_idle_is_what_no_span_of_a_process_covers_averaged_over_processes() -> None:
    spans = [
        span("learner", 0, 14.0, 16.0, "step"),
        span("learner", 0, 12.0, 14.0, "load"),
        span("engine", 0, 8.0, 13.0),  # begins before the iteration
        span("engine", 0, 12.0, 14.0),  # beside the one above
        span("engine", 1, 19.0, 30.0),  # ends after it
        span("driver", 0, 10.0, 20.0),
        span("grader", 0, 10.0, 11.0),
    ]
    shares = idle_shares(spans, start_s=10.0, end_s=20.0)
    assert shares == pytest.approx({"idle/learner": 0.6, "idle/engines": (0.6 + 0.9) / 2})


def test_idle_shares_agree_with_counting_seconds() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        starts = random.integers(0, 90, size=6)
        ends = starts + random.integers(0, 30, size=6)
        busy = np.zeros(200, dtype=bool)
        for start, end in zip(starts, ends, strict=True):
            busy[start:end] = True
        spans = [span("engine", 0, float(start), float(end)) for start, end in zip(starts, ends, strict=True)]
        found = idle_shares(spans, start_s=20.0, end_s=80.0)
        assert found == pytest.approx({"idle/engines": 1 - busy[20:80].mean()})


def test_without_processes_or_time_there_is_no_share() -> None:
    assert idle_shares([span("driver", 0, 0.0, 1.0)], start_s=0.0, end_s=1.0) == {}
    assert idle_shares([span("engine", 0, 0.0, 1.0)], start_s=1.0, end_s=1.0) == {}


@pytest.mark.parametrize(
    ("learner", "engines", "max_staleness", "expected"),
    [
        (0.41, 0.2, 1, "learner waits 41% of the time: 1 more engine or max_staleness=2 would help"),
        (0.55, 0.45, 0, "learner waits 55% of the time: 1 more engine or max_staleness=1 would help"),
        (0.4, 0.02, 1, "learner waits 40% of the time: 1 more engine would help"),
        (0.4, 0.6, 0, "engines wait 60% of the time: 1 more learner rank or max_staleness=1 would help"),
        (0.03, 0.5, 2, "engines wait 50% of the time: 1 more learner rank would help"),
        (0.24, 0.2, 0, None),
        (0.0, 0.1, 4, None),
    ],
)
def test_advice_names_the_bottleneck(learner: float, engines: float, max_staleness: int, expected: str | None) -> None:
    assert advice(idle_learner=learner, idle_engines=engines, max_staleness=max_staleness) == expected


def row(learner: float, engines: float, *, seconds: float = 1.0) -> dict[str, float]:
    return {"iteration": 0, "idle/learner": learner, "idle/engines": engines, "time/iteration_s": seconds}


def told(adviser: Adviser, learner: float, engines: float, count: int) -> list[int]:
    """At which of `count` equal iterations it spoke up."""
    return [number for number in range(1, count + 1) if adviser.observe(row(learner, engines))]


def test_one_remedy_is_told_once_and_again_at_the_end_unless_that_is_near() -> None:
    adviser = Adviser(max_staleness=0)
    assert told(adviser, 0.5, 0.3, ADVICE_EVERY + 5) == [ADVICE_EVERY]
    assert adviser.conclude() is None, "told five iterations ago"
    assert told(adviser, 0.6, 0.3, 2 * ADVICE_EVERY) == []
    assert (adviser.conclude() or "").startswith("learner waits 60%")


def test_a_new_remedy_is_told_after_ten_more_iterations() -> None:
    adviser = Adviser(max_staleness=1)
    assert told(adviser, 0.5, 0.3, ADVICE_EVERY) == [ADVICE_EVERY]
    assert told(adviser, 0.0, 0.5, ADVICE_EVERY) == [ADVICE_EVERY]
    assert told(adviser, 0.1, 0.1, 2 * ADVICE_EVERY) == []
    assert adviser.conclude() is None


def test_a_short_run_is_judged_at_its_end() -> None:
    adviser = Adviser(max_staleness=0)
    for _ in range(MIN_ITERATIONS - 1):
        adviser.observe(row(0.5, 0.4))
    assert adviser.conclude() is None
    adviser.observe(row(0.5, 0.4))
    assert (adviser.conclude() or "").startswith("learner waits 50%")


def test_shares_are_of_the_time_not_of_the_number_of_iterations() -> None:
    adviser = Adviser(max_staleness=1)
    for _ in range(3):
        adviser.observe(row(0.8, 0.4, seconds=3.0))
        adviser.observe(row(0.2, 0.0, seconds=1.0))
    assert (adviser.conclude() or "").startswith("learner waits 65%")


def test_a_run_without_engines_gets_no_advice() -> None:
    adviser = Adviser(max_staleness=0)
    for _ in range(2 * ADVICE_EVERY):
        assert adviser.observe({"iteration": 0, "idle/learner": 0.9}) is None
    assert adviser.conclude() is None
