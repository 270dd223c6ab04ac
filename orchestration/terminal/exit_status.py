"""End of a command: its last output and its exit status.

In: the text to print, or the exception that ended the command. Out: lines without a stack trace if a person can act on
them, and a status. Errors that are not ours are raised again, because only their traceback explains them.
"""

import os
import sys

from configs.loading import ConfigError
from configs.packages import PACKAGES

FAILED, MISCONFIGURED, INTERRUPTED = 1, 2, 130  # exit statuses; 130 is a shell's for Ctrl-C


def print_answer(text: str) -> None:
    """Prints the text on stdout; a closed pipe, as in `--help | head`, is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes stdout once more at exit, which would fail too on the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_status(error: BaseException) -> int:
    """Prints the error in one line, or one a mistake, and returns its exit status; raises errors that are not ours."""
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
