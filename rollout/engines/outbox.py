"""The outbox of an engine: several finished groups leave with one answer, and none waits long for others.

An asyncio object inside the engine's actor. Groups come in as they finish; take() gives them out in chunks. It knows
neither vLLM nor Ray.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from rollout.contract import FinishedRequest, PromptGroup

GATHER_S = 0.005  # longest wait of a finished group for others; a call to the engine costs about a tenth of it


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """A finished group and the notice of it to the driver."""

    finished: FinishedRequest
    group: PromptGroup


class Outbox:
    """Collects what finishes between two takes; one taker at a time."""

    def __init__(self) -> None:
        self._finished: deque[Delivery] = deque()
        self._num_unfinished = 0
        self._failure: BaseException | None = None
        self._is_due = False  # True where the first group has waited GATHER_S, or answer_now() was called
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, num_requests: int) -> None:
        """Announces so many more deliveries."""
        self._num_unfinished += num_requests

    def deliver(self, delivery: Delivery) -> None:
        self._num_unfinished -= 1
        if not self._finished:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self.answer_now)
        self._finished.append(delivery)
        self._changed.set()

    def fail(self, error: BaseException) -> None:
        """A request failed: the next take raises its error."""
        self._num_unfinished -= 1
        self._failure = error
        self._changed.set()

    def answer_now(self) -> None:
        """Lets a take that waits answer with what there is, even if that is nothing."""
        self._is_due = True
        self._changed.set()

    async def take(self, limit: int) -> list[Delivery]:
        """Removes and returns at most `limit` groups.

        Waits until there are `limit`, or all that are unfinished came, or the first has waited GATHER_S, or
        answer_now() was called.
        """
        while not self._is_ready(limit):
            self._changed.clear()
            await self._changed.wait()
        if self._failure is not None:
            raise self._failure
        if self._timer is not None:
            self._timer.cancel()
        self._is_due = False
        taken = [self._finished.popleft() for _ in range(min(limit, len(self._finished)))]
        if self._finished:
            self.answer_now()
        return taken

    def _is_ready(self, limit: int) -> bool:
        is_complete = bool(self._finished) and self._num_unfinished == 0
        return self._failure is not None or self._is_due or is_complete or len(self._finished) >= limit
