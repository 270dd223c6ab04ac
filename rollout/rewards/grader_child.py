"""The process in which untrusted completions are graded; an actor of graders.py starts, feeds and kills it.

In: JSON messages over an inherited pipe, {"texts": [...], "reference": "..."}. Out: {"prepared": true} once the group's
clock may run, then for each completion {"running": name, "otherwise": {...}} before each of the user's own rewards,
with the verdict in case it does not return, and {"verdict": {...}} or {"error": "..."}. Ends by itself when the pipe
closes, and by a kernel timer when one completion takes too long, so it never outlives its actor for long.
"""

import argparse
import json
import pkgutil
import resource
import signal
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Connection

from rollout.rewards.functions import Announce, RewardError, RewardFunction
from rollout.rewards.grading import prepare

MEMORY_LIMIT_BYTES = 4 * 2**30  # limit of address space; a completion that needs more is not an answer
OUT_OF_MEMORY_STATUS = 77  # exit status after a limit; a defect has another
READY = b"ready"
RewardFactory = Callable[[dict[str, object], Announce], RewardFunction]  # (the section `reward`, announce)


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
        prepare(message["reference"])
        send(connection, {"prepared": True})
        for text in message["texts"]:
            signal.setitimer(signal.ITIMER_REAL, timeout_s)
            try:
                send(connection, {"verdict": asdict(reward_function(text, message["reference"]))})
            except RewardError as error:
                send(connection, {"error": str(error)})
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def send(connection: Connection, message: dict[str, object]) -> None:
    """One message to the actor."""
    connection.send_bytes(json.dumps(message).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description="Grade completions that arrive over an inherited pipe.")
    parser.add_argument("--descriptor", type=int, required=True, help="file descriptor of the pipe")
    parser.add_argument("--timeout-s", type=float, required=True, help="limit for one completion")
    parser.add_argument("--reward", required=True, help="package.module:function that makes the reward")
    parser.add_argument("--settings", type=json.loads, required=True, help="the section `reward`, as JSON")
    arguments = parser.parse_args()
    connection = Connection(arguments.descriptor)
    make: RewardFactory = pkgutil.resolve_name(arguments.reward)
    reward_function = make(
        arguments.settings,
        lambda name, verdict: send(connection, {"running": name, "otherwise": asdict(verdict)}),
    )
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    try:
        serve(connection, reward_function, timeout_s=arguments.timeout_s)
    except MemoryError:
        raise SystemExit(OUT_OF_MEMORY_STATUS) from None


if __name__ == "__main__":
    main()
