"""The last words of a process and its exit status, written once, whoever is first.

In: signals that come before anything is started or after everything has ended; the last lines of a command. Out: lines
on the terminal's stderr, and the end of the process. Imports next to nothing, because a command calls leave_at_once()
before its other imports, which take most of a second.
"""

import os
import signal
from types import FrameType

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated (SIGTERM)", signal.SIGHUP: "hung up (SIGHUP)"}

_stderr = 2  # descriptor of the terminal's stderr, also while redirect_output has sent 2 elsewhere
_status: int | None = None  # exit status of this process, once its last words are written


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: ends a command as Ctrl-C does, with words and a status of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def status_of(error: KeyboardInterrupt) -> int:
    """The exit status of a command that the signal ended, as a shell counts it."""
    return 128 + (error.number if isinstance(error, Terminated) else signal.SIGINT)


def words_of(error: KeyboardInterrupt) -> str:
    return WORDS[signal.Signals(status_of(error) - 128)]


def leave_at_once() -> None:
    """Lets a signal end this process with its line and its status: to be used while nothing has been started.

    A signal that is ignored, as SIGHUP with nohup, stays so.
    """
    for number in WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _leave)


def decide_status(status: int) -> None:
    """Fixes the exit status, after the last words: from here on a signal only hurries the end."""
    global _status
    _status = status


def end_now(error: KeyboardInterrupt) -> None:
    """Ends the process without tidying up, with the signal's line and status if the last words are not written yet."""
    if _status is None:
        write_lines([f"softgate: {words_of(error)}"])
    os._exit(status_of(error) if _status is None else _status)


def use_stderr(descriptor: int) -> None:
    """Names the descriptor of the terminal's stderr."""
    global _stderr
    _stderr = descriptor


def write_lines(lines: list[str]) -> None:
    """Writes lines to the terminal; nobody may be there to read them."""
    try:
        os.write(_stderr, "".join(f"{line}\n" for line in lines).encode(errors="replace"))
    except OSError:
        return


def _leave(number: int, frame: FrameType | None) -> None:
    end_now(Terminated(number))
