"""What passes of a grader's output: the first part of each hour, and always the last line."""

import os

from rollout.rewards.output import HOURLY_BYTES, OutputLog
from transfer.last_hour import HOUR_S


class Terminal:
    def __init__(self) -> None:
        self.now = 0.0
        self.written = b""
        self.log = OutputLog(self.write, clock=lambda: self.now)

    def write(self, chunk: bytes) -> None:
        self.written += chunk


def test_output_within_the_limit_passes_unchanged() -> None:
    terminal = Terminal()
    terminal.log.add(b"one\ntw")
    terminal.log.add(b"o\n")
    terminal.log.note("three \ud800")
    assert terminal.written == b"one\ntwo\nthree \\ud800\n"


def test_output_beyond_the_limit_is_dropped_until_the_hour_is_over() -> None:
    terminal = Terminal()
    for _ in range(100):
        terminal.log.add(b"x" * (HOURLY_BYTES // 10))
    assert HOURLY_BYTES < len(terminal.written) < HOURLY_BYTES + 200
    assert terminal.written.endswith(b"within an hour is dropped\n")
    terminal.now = HOUR_S
    terminal.log.add(b"again\n")
    assert terminal.written.endswith(b"again\n")


def test_the_last_line_is_known_whatever_was_dropped() -> None:
    log = Terminal().log
    assert log.last_line() == ""
    log.add(b"x" * 2 * HOURLY_BYTES)
    log.add(b"\nTraceback ...\nValueError: no\n\n")
    assert log.last_line() == "ValueError: no"


def test_a_pipe_is_followed_to_its_end() -> None:
    terminal = Terminal()
    reading, writing = os.pipe()
    thread = terminal.log.follow(reading)
    os.write(writing, b"a\n")
    os.close(writing)
    thread.join(60.0)
    assert not thread.is_alive()
    assert terminal.written == b"a\n"
