"""The process in which untrusted completions are graded; an actor of rollout/graders.py starts, feeds and kills it.

In: JSON messages over an inherited pipe, {"texts": [...], "reference": "..."}. Out: a message a completion,
[format, answer]. Ends by itself when the pipe closes, and by a kernel timer when one group takes too long, so it never
outlives its actor for long.
"""

import argparse
import importlib
import json
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection

from rollout.contract import RewardVerdict

MEMORY_LIMIT_BYTES = 4 * 2**30  # of address space; a completion that needs more is not an answer
OUT_OF_MEMORY_STATUS = 77  # exit status that tells a limit from a defect
READY = b"ready"
RewardFunction = Callable[[str, str], RewardVerdict]  # (completion text, reference answer)


def import_function(path: str) -> RewardFunction:
    """The callable that `package.module:name` names."""
    module, _, name = path.partition(":")
    function: RewardFunction = getattr(importlib.import_module(module), name)
    return function


def serve(connection: Connection, reward_function: RewardFunction, *, timeout_s: float) -> None:
    """Grade groups until the other end closes.

    The timer's default action ends the process even inside C code that holds the interpreter's lock, such as a regular
    expression.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    connection.send_bytes(READY)
    while True:
        try:
            message = json.loads(connection.recv_bytes())
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, timeout_s)
        for text in message["texts"]:
            verdict = reward_function(text, message["reference"])
            connection.send_bytes(json.dumps([verdict.format, verdict.answer]).encode())
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Grade completions that arrive over an inherited pipe.")
    parser.add_argument("--descriptor", type=int, required=True, help="file descriptor of the pipe")
    parser.add_argument("--timeout-s", type=float, required=True, help="limit for one group")
    parser.add_argument("--reward", required=True, help="package.module:function")
    arguments = parser.parse_args()
    reward_function = import_function(arguments.reward)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    try:
        serve(Connection(arguments.descriptor), reward_function, timeout_s=arguments.timeout_s)
    except MemoryError:
        raise SystemExit(OUT_OF_MEMORY_STATUS) from None


if __name__ == "__main__":
    main()
