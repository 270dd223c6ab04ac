"""End of a command: its last output and its exit status.

In: the text to print, or the exception that ended the command. Out: lines without a stack trace if a person can act on
them, and a status. Errors that are not ours keep their traceback, because nothing else explains them.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import IO, NoReturn, TypeVar

from configs.loading import ConfigError
from configs.packages import PACKAGES
from orchestration.terminal.disk import disk_fault
from orchestration.terminal.leaving import WORDS, decide_status, status_of, words_of

Arguments = TypeVar("Arguments", bound=Sequence[str])

FAILED, MISCONFIGURED = 1, 2  # exit statuses; that of a signal is 128 and its number

_told: BaseException | None = None  # the error about which everything is printed


def print_answer(text: str) -> None:
    """Prints the text on stdout; a closed pipe, as in `--help | head`, is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        flush_or_drop(sys.stdout)


def command(main: Callable[[Arguments], int]) -> Callable[[Arguments], int]:
    """The main function of a command: what ends it is printed and becomes its exit status."""

    @wraps(main)
    def ended(arguments: Arguments) -> int:
        try:
            return main(arguments)
        except BaseException as error:
            status = exit_status(error)
            if status is None:
                raise
            return status

    return ended


def exit_status(error: BaseException) -> int | None:
    """Prints the error in one line, or one a mistake, and returns its exit status; None for errors that are not ours.

    Prints nothing where everything is printed already.
    """
    if error is not _told:
        line = describe(error)
        if line is None:
            return None
        with suppress(OSError):  # nobody is there to read it
            print(line, file=sys.stderr, flush=True)
        decide_status(status_for(error))
    return status_for(error)


def status_for(error: BaseException) -> int:
    """The exit status of a command that the error ends."""
    if isinstance(error, KeyboardInterrupt):
        return status_of(error)
    return MISCONFIGURED if isinstance(error, ConfigError) else FAILED


def describe(error: BaseException, *, folder: Path = Path()) -> str | None:
    """The error in one line, or one a mistake; None for one that is not ours. folder: what the command writes to."""
    if isinstance(error, ConfigError):
        return "\n".join(error.lines)
    if isinstance(error, KeyboardInterrupt):
        return f"softgate: {words_of(error)}"
    fault = disk_fault(error, folder=folder)
    if fault is not None:
        return f"softgate: {fault}"
    if type(error).__module__.partition(".")[0] not in PACKAGES:
        return None
    return f"softgate: {' '.join(str(error).split())}"


def mark_told(error: BaseException) -> None:
    """Leaves exit_status() nothing to print about the error."""
    global _told
    _told = error


def leave(status: int) -> NoReturn:
    """Ends the process with the status, whatever signals come meanwhile: Python would give them their defaults back."""
    for number in WORDS:
        signal.signal(number, signal.SIG_IGN)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        flush_or_drop(stream)
    sys.exit(status)


def flush_or_drop(stream: IO[str]) -> None:
    """Flushes a stream; if its file takes no more, drops the rest, on which Python would fail again at exit."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
