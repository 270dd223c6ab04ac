"""The count, the line and the bound of faults, under a clock that the test moves."""

import io
import logging
from functools import partial

import pytest
from rich.console import Console

from orchestration.recovery.faults import Faults, TooManyFaults
from orchestration.terminal.console import print_line
from transfer.last_hour import HOUR_S


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_faults_are_counted_by_kind_until_a_row_takes_them() -> None:
    faults = Faults(lambda line: None, max_restarts=9)
    assert faults.drain() == {}
    for kind in ("engines", "learners", "engines"):
        faults.admit(kind, "x", ValueError())  # type: ignore[arg-type]
    faults.replaced("graders", "grader 0 died", None)
    assert faults.drain() == {"faults/engines": 2.0, "faults/learners": 1.0, "faults/graders": 1.0}
    assert faults.drain() == {}, "a metric that is 0 is absent"


def test_so_many_within_an_hour_are_allowed_and_the_first_is_named_with_the_last(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    faults = Faults(lambda line: None, max_restarts=2, clock=clock)
    assert faults.admit("engines", "engine 0: died", ValueError()) == "1 of at most 2 restarts an hour"
    clock.now = HOUR_S - 1.0
    assert faults.admit("engines", "engine 1: died", ValueError()) == "2 of at most 2 restarts an hour"
    clock.now = HOUR_S
    assert faults.admit("learners", "rank 0: died", ValueError("Ray's page")) == "2 of at most 2 restarts an hour"
    assert "Ray's page" in caplog.text, "the cause is in the log"
    with pytest.raises(TooManyFaults) as ended:
        faults.admit("engines", "engine 2: died", ValueError())
    assert str(ended.value) == (
        "engine 2: died; recovery.max_restarts=2 an hour are used up, the first for: engine 1: died"
    )


def test_without_restarts_the_first_fault_ends_the_run() -> None:
    with pytest.raises(TooManyFaults, match=r"engine 0: died; recovery.max_restarts=0: nothing is started again"):
        Faults(lambda line: None, max_restarts=0).admit("engines", "engine 0: died", ValueError())


def test_a_line_goes_to_the_terminal_and_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    lines: list[str] = []
    faults = Faults(lines.append, max_restarts=0)
    faults.tell("engine 0 is back after 7 s")
    faults.replaced("graders", "grader 0 died", ValueError("Ray's page"))
    assert lines == ["engine 0 is back after 7 s", "grader 0 died"]
    assert caplog.text.count("engine 0 is back after 7 s") == caplog.text.count("grader 0 died") == 1
    assert "Ray's page" in caplog.text


def test_a_line_on_a_real_terminal_is_in_the_log_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    terminal = io.StringIO()
    faults = Faults(partial(print_line, Console(file=terminal)), max_restarts=1)
    with caplog.at_level(logging.WARNING):
        faults.tell("node 10.0.0.2 (engine 1 there) does not answer any more")
    assert terminal.getvalue() == "node 10.0.0.2 (engine 1 there) does not answer any more\n"
    assert caplog.messages == ["node 10.0.0.2 (engine 1 there) does not answer any more"]
