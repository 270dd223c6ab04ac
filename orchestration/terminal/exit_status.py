"""How a command ends: what the person reads, and the exit status.

In: the text asked for, or the exception that ended the command. Out: lines without a stack trace where a person can act
on them, and a status. Errors that are not ours are raised again: their traceback is the only thing that explains them.
"""

import os
import sys

from configs.loading import ConfigError
from configs.packages import PACKAGES

FAILED, MISCONFIGURED, INTERRUPTED = 1, 2, 130  # 130: what a shell reports for Ctrl-C


def print_answer(text: str) -> None:
    """Print what was asked for on stdout. A reader that has left, as in `--help | head`, read what it wanted."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes stdout once more at exit: give it a place to go, or that fails as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_status(error: BaseException) -> int:
    """Print the error in one line (a configuration: one line a mistake) and give its status; raise what is not ours."""
    if isinstance(error, ConfigError):
        print(*error.lines, sep="\n", file=sys.stderr)
        return MISCONFIGURED
    if isinstance(error, KeyboardInterrupt):
        print("softgate: interrupted", file=sys.stderr)
        return INTERRUPTED
    if type(error).__module__.partition(".")[0] not in PACKAGES:
        raise error
    print(f"softgate: {' '.join(str(error).split())}", file=sys.stderr)
    return FAILED
