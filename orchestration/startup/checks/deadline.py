"""A limit on the time of a call that has none itself, such as the look-up of a host's name."""

from collections.abc import Callable
from http.client import HTTPException
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeVar

Answer = TypeVar("Answer")


def within(limit_s: float, call: Callable[[], Answer]) -> Answer:
    """What a call over the network returns or raises; TimeoutError where it takes longer, and it is left to itself."""
    results: SimpleQueue[tuple[Answer | None, Exception | None]] = SimpleQueue()

    def work() -> None:
        try:
            results.put((call(), None))
        except (OSError, ValueError, HTTPException) as error:
            results.put((None, error))

    Thread(target=work, daemon=True).start()  # a daemon does not keep the process from ending
    try:
        answer, error = results.get(timeout=limit_s)
    except Empty:
        raise TimeoutError(f"no answer within {limit_s:g} s") from None
    if error is not None:
        raise error
    return answer  # type: ignore[return-value]
