"""The wait for several actors on a real Ray: order, failures, deaths and silence."""

import os
import time
from collections.abc import Iterator

import pytest
import ray

from transfer.answers import FAILURE_GRACE_S, await_answers, reason


@pytest.fixture(scope="module", autouse=True)
def ray_session() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


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
    ray.get([peer.ready.remote() for peer in found], timeout=60)
    yield found
    for peer in found:
        ray.kill(peer)


def test_results_come_in_the_order_of_the_calls(peers: list[ray.actor.ActorHandle]) -> None:
    calls = {"slow": peers[0].answer.remote("a", 0.5), "fast": peers[1].answer.remote("b")}
    answers = await_answers(calls, timeout_s=30.0)
    assert list(answers.results.items()) == [("slow", "a"), ("fast", "b")]
    assert (answers.failures, answers.silent) == ({}, ())


def test_the_silent_are_named_at_the_time_out(peers: list[ray.actor.ActorHandle]) -> None:
    calls = {0: peers[0].answer.remote("a"), 1: peers[1].answer.remote("b", 30.0), 2: peers[2].answer.remote("c", 30.0)}
    answers = await_answers(calls, timeout_s=1.0)
    assert (answers.results, answers.failures, answers.silent) == ({0: "a"}, {}, (1, 2))


def test_a_failure_ends_the_wait_after_the_grace_period(peers: list[ray.actor.ActorHandle]) -> None:
    started = time.monotonic()
    calls = {0: peers[0].answer.remote("a", 60.0), 1: peers[1].fail.remote(), 2: peers[2].fail.remote(0.5)}
    answers = await_answers(calls, timeout_s=60.0)
    assert {peer: reason(error) for peer, error in answers.blamed.items()} == {
        1: "ValueError: made to fail",
        2: "ValueError: made to fail",
    }
    assert answers.silent == (0,)
    assert FAILURE_GRACE_S <= time.monotonic() - started < 30.0


def test_a_death_is_blamed_before_an_earlier_failure(peers: list[ray.actor.ActorHandle]) -> None:
    answers = await_answers({"broken": peers[0].fail.remote(), "dead": peers[1].die.remote(0.3)}, timeout_s=60.0)
    assert list(answers.failures) == ["broken", "dead"]
    assert list(answers.blamed) == ["dead"]
