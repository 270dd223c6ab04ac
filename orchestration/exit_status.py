"""How a command ends: what the person reads on stderr, and the exit status.

In: the exception that ended the command. Out: lines without a stack trace where a person can act on them, and a status.
Errors that are not ours are raised again: their traceback is the only thing that explains them.
"""

import sys

from configs.loading import ConfigError

FAILED, MISCONFIGURED, INTERRUPTED = 1, 2, 130  # 130: what a shell reports for Ctrl-C
OUR_PACKAGES = ("configs", "gates", "learner", "orchestration", "rollout", "transfer")


def exit_status(error: BaseException) -> int:
    """Print the error in one line (a configuration: one line a mistake) and give its status; raise what is not ours."""
    if isinstance(error, ConfigError):
        print(*error.lines, sep="\n", file=sys.stderr)
        return MISCONFIGURED
    if isinstance(error, KeyboardInterrupt):
        print("softgate: interrupted", file=sys.stderr)
        return INTERRUPTED
    if type(error).__module__.partition(".")[0] not in OUR_PACKAGES:
        raise error
    print(f"softgate: {' '.join(str(error).split())}", file=sys.stderr)
    return FAILED
