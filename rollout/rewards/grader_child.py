"""The process in which untrusted completions are graded; child.py starts, feeds and ends it.

In: JSON messages over an inherited pipe, {"texts": [...], "reference": "..."}. Out: {"ready": true} or {"error": "..."}
once; for each group {"prepared": true} once its clock may run, then for each completion {"running": name,
"otherwise": {...}} before each of the user's own rewards, with the verdict in case it does not return, and {"verdict":
{...}} or {"error": "..."}. The grading is a child of this module's process, which supervisor.py describes.
"""

import argparse
import json
import os
import pkgutil
import resource
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Connection

from rollout.contract import RewardVerdict
from rollout.rewards.functions import Announce, RewardError, RewardFunction
from rollout.rewards.grading import prepare
from rollout.rewards.supervisor import OUT_OF_MEMORY_STATUS, Limits, run_supervised

RewardFactory = Callable[[dict[str, object], Announce], RewardFunction]  # (the section `reward`, announce)


def serve(connection: Connection, reward_function: RewardFunction) -> None:
    """Grade groups until the other end closes."""
    while True:
        try:
            message = json.loads(connection.recv_bytes())
        except EOFError:
            return
        prepare(message["reference"])
        send(connection, {"prepared": True})
        for text in message["texts"]:
            try:
                send(connection, {"verdict": asdict(reward_function(text, message["reference"]))})
            except RewardError as error:
                send(connection, {"error": str(error)})


def send(connection: Connection, message: dict[str, object]) -> None:
    """One message to the actor."""
    connection.send_bytes(json.dumps(message).encode())


def work(connection: Connection, factory: str, settings: dict[str, object], *, memory_bytes: int) -> None:
    """The grading itself, in the supervised process."""
    make: RewardFactory = pkgutil.resolve_name(factory)

    def announce(name: str, otherwise: RewardVerdict) -> None:
        send(connection, {"running": name, "otherwise": asdict(otherwise)})

    try:
        reward_function = make(settings, announce)
    except ValueError as error:  # a reward of the user's own that cannot be loaded
        send(connection, {"error": str(error)})
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    send(connection, {"ready": True})
    try:
        serve(connection, reward_function)
    except MemoryError:
        os._exit(OUT_OF_MEMORY_STATUS)


def main() -> None:
    parser = argparse.ArgumentParser(description="Grade completions that arrive over an inherited pipe.")
    parser.add_argument("--descriptor", type=int, required=True, help="file descriptor of the pipe")
    parser.add_argument("--memory-bytes", type=int, required=True, help="limit of address space of each process")
    parser.add_argument("--max-processes", type=int, required=True, help="limit of what own rewards start")
    parser.add_argument("--reward", required=True, help="package.module:function that makes the reward")
    parser.add_argument("--settings", type=json.loads, required=True, help="the section `reward`, as JSON")
    given = parser.parse_args()
    connection = Connection(given.descriptor)
    limits = Limits(memory_bytes=given.memory_bytes, max_processes=given.max_processes)
    run_supervised(
        lambda: work(connection, given.reward, given.settings, memory_bytes=given.memory_bytes),
        limits=limits if given.settings["extra"] else None,
        of_work=given.descriptor,
    )


if __name__ == "__main__":
    main()
