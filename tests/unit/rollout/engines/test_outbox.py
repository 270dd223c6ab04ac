"""Outbox: what one answer of an engine carries, and what it waits for."""

import asyncio
from typing import Any

import pytest

from rollout.contract import FinishedRequest
from rollout.engines import outbox
from rollout.engines.outbox import Delivery, Outbox


def finished(ticket: int) -> Delivery:
    request: Any = FinishedRequest(ticket=ticket, summary=f"summary {ticket}")  # type: ignore[arg-type]
    group: Any = f"group {ticket}"
    return Delivery(finished=request, group=group)


def tickets(taken: list[Delivery]) -> list[int]:
    return [delivery.finished.ticket for delivery in taken]


async def settled(task: "asyncio.Task[Any]") -> bool:
    """Whether the task ends without anything else happening."""
    for _ in range(5):
        await asyncio.sleep(0)
    return task.done()


def test_a_full_chunk_goes_at_once_and_the_rest_with_the_next_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "GATHER_S", 3600.0)

    async def scenario() -> None:
        box = Outbox()
        box.expect(6)
        taking = asyncio.create_task(box.take(2))
        box.deliver(finished(0))
        assert not await settled(taking), "one of two, and others are still to come"
        for ticket in (1, 2):
            box.deliver(finished(ticket))
        assert tickets(await taking) == [0, 1]
        assert tickets(await box.take(2)) == [2], "it has waited once already"

    asyncio.run(scenario())


def test_the_last_groups_wait_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "GATHER_S", 3600.0)

    async def scenario() -> None:
        box = Outbox()
        box.expect(1)
        taking = asyncio.create_task(box.take(8))
        assert not await settled(taking)
        box.deliver(finished(0))
        assert tickets(await taking) == [0]

    asyncio.run(scenario())


def test_a_lone_group_goes_when_it_has_waited_and_answer_now_answers_with_nothing() -> None:
    async def scenario() -> None:
        box = Outbox()
        box.expect(2)
        box.deliver(finished(0))
        assert tickets(await box.take(8)) == [0]
        taking = asyncio.create_task(box.take(8))
        assert not await settled(taking)
        box.answer_now()
        assert await taking == []

    asyncio.run(scenario())


def test_a_group_that_left_with_a_full_chunk_makes_no_later_call_answer_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "GATHER_S", 0.0)

    async def scenario() -> None:
        box = Outbox()
        box.expect(3)
        box.deliver(finished(0))
        box.deliver(finished(1))
        assert tickets(await box.take(2)) == [0, 1]
        taking = asyncio.create_task(box.take(2))
        assert not await settled(taking)
        taking.cancel()

    asyncio.run(scenario())


def test_a_failed_request_fails_the_call() -> None:
    async def scenario() -> None:
        box = Outbox()
        box.expect(2)
        taking = asyncio.create_task(box.take(8))
        box.fail(ValueError("too long"))
        with pytest.raises(ValueError, match="too long"):
            await taking

    asyncio.run(scenario())
