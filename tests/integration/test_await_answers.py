"""The wait for several actors on a real Ray: order, failures, deaths and silence."""

import os
import time
from collections.abc import Iterator

import pytest
import ray

from transfer import answers as waiting
from transfer.answers import FAILURE_GRACE_S, await_answers, reason

pytestmark = pytest.mark.usefixtures("shared_ray")

NEVER_S = 3600.0


@ray.remote(num_cpus=0)
class Peer:
    def ready(self) -> None: ...

    def answer(self, value: str, delay_s: float = 0.0) -> str:
        time.sleep(delay_s)
        return value

    def fail(self, delay_s: float = 0.0) -> None:
        time.sleep(delay_s)
        raise ValueError("made to fail")

    def die(self, delay_s: float) -> None:
        time.sleep(delay_s)
        os._exit(1)


@pytest.fixture
def peers() -> Iterator[list[ray.actor.ActorHandle]]:
    found = [Peer.remote() for _ in range(3)]
    ray.get([peer.ready.remote() for peer in found], timeout=300)
    yield found
    for peer in found:
        ray.kill(peer)


def test_results_come_in_the_order_of_the_calls(peers: list[ray.actor.ActorHandle]) -> None:
    calls = {"slow": peers[0].answer.remote("a", 0.5), "fast": peers[1].answer.remote("b")}
    answers = await_answers(calls, timeout_s=120.0)
    assert list(answers.results.items()) == [("slow", "a"), ("fast", "b")]
    assert (answers.failures, answers.silent) == ({}, ())


def test_the_silent_are_named_at_the_time_out(peers: list[ray.actor.ActorHandle]) -> None:
    given = peers[0].answer.remote("a")
    ray.wait([given])  # in time, however busy the machine is
    calls = {0: given, 1: peers[1].answer.remote("b", NEVER_S), 2: peers[2].answer.remote("c", NEVER_S)}
    answers = await_answers(calls, timeout_s=1.0)
    assert (answers.results, answers.failures, answers.silent) == ({0: "a"}, {}, (1, 2))


def test_a_failure_ends_the_wait_after_the_grace_period(peers: list[ray.actor.ActorHandle]) -> None:
    started = time.monotonic()
    calls = {0: peers[0].answer.remote("a", NEVER_S), 1: peers[1].fail.remote(), 2: peers[2].fail.remote(0.2)}
    answers = await_answers(calls, timeout_s=NEVER_S)
    assert {peer: reason(error) for peer, error in (answers.dead or answers.failures).items()} == {
        1: "ValueError: made to fail",
        2: "ValueError: made to fail",
    }
    assert answers.silent == (0,)
    assert FAILURE_GRACE_S <= time.monotonic() - started < 120.0


def test_a_death_is_blamed_before_an_earlier_failure(
    peers: list[ray.actor.ActorHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "FAILURE_GRACE_S", 120.0)  # a busy Ray takes a while to notice a death
    answers = await_answers({"broken": peers[0].fail.remote(), "dead": peers[1].die.remote(0.3)}, timeout_s=240.0)
    assert list(answers.failures) == ["broken", "dead"]
    assert list(answers.dead or answers.failures) == ["dead"]
