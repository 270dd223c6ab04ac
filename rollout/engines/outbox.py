"""Finished groups on their way out of an engine: several go with one answer, and none waits long for company.

An asyncio object inside the engine's actor. Groups come in as they finish; take() gives them out in chunks. It knows
neither vLLM nor Ray.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from rollout.contract import FinishedRequest, PromptGroup

COMPANY_S = 0.005  # how long a finished group waits for others; a call to the engine costs about a tenth of it


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """A finished group and what the driver is told of it."""

    finished: FinishedRequest
    group: PromptGroup


class Outbox:
    """Collects what finishes between two takes; one taker at a time."""

    def __init__(self) -> None:
        self._finished: deque[Delivery] = deque()
        self._num_unfinished = 0
        self._failure: BaseException | None = None
        self._is_due = False  # the first one waiting has waited long enough, or somebody asked to answer at once
        self._changed = asyncio.Event()
        self._company: asyncio.TimerHandle | None = None

    def expect(self, num_requests: int) -> None:
        """So many more will be delivered."""
        self._num_unfinished += num_requests

    def deliver(self, delivery: Delivery) -> None:
        self._num_unfinished -= 1
        if not self._finished:
            self._company = asyncio.get_running_loop().call_later(COMPANY_S, self.hurry)
        self._finished.append(delivery)
        self._changed.set()

    def fail(self, error: BaseException) -> None:
        """A request failed: the next take raises its error."""
        self._num_unfinished -= 1
        self._failure = error
        self._changed.set()

    def hurry(self) -> None:
        """Lets a take that waits answer with what there is, even if that is nothing."""
        self._is_due = True
        self._changed.set()

    async def take(self, limit: int) -> list[Delivery]:
        """At most `limit` groups.

        Waits until there are `limit`, or all that are unfinished came, or the first has waited COMPANY_S, or hurry()
        was called.
        """
        while not self._is_ready(limit):
            self._changed.clear()
            await self._changed.wait()
        if self._failure is not None:
            raise self._failure
        if self._company is not None:
            self._company.cancel()
        self._is_due = False
        taken = [self._finished.popleft() for _ in range(min(limit, len(self._finished)))]
        if self._finished:
            self.hurry()
        return taken

    def _is_ready(self, limit: int) -> bool:
        is_complete = bool(self._finished) and self._num_unfinished == 0
        return self._failure is not None or self._is_due or is_complete or len(self._finished) >= limit
