"""Heartbeats under a clock that the test moves, over references that the test answers."""

from collections.abc import Callable
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from transfer import heartbeats as module
from transfer.answers import reason
from transfer.heartbeats import LONGEST_GAP_S, Heartbeats


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Peer:
    """Questions get numbers; the test says which have an answer."""

    def __init__(self) -> None:
        self.num_asked = 0
        self.answers: dict[str, Any] = {}

    def ask(self) -> str:
        self.num_asked += 1
        return f"{id(self)} {self.num_asked}"

    def answer(self, value: Any = None) -> None:
        self.answers[f"{id(self)} {self.num_asked}"] = value


class FakeRay:
    def __init__(self, *peers: Peer) -> None:
        self._peers = peers

    def wait(self, refs: list[str], *, num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        assert (num_returns, timeout) == (len(refs), 0), "it waits for nothing"
        answered = {ref for peer in self._peers for ref in peer.answers}
        return [ref for ref in refs if ref in answered], [ref for ref in refs if ref not in answered]

    def get(self, ref: str) -> Any:
        (value,) = (peer.answers[ref] for peer in self._peers if ref in peer.answers)
        if isinstance(value, Exception):
            raise value
        return value


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Peer:
    peer = Peer()
    monkeypatch.setattr(module, "ray", FakeRay(peer))
    return peer


@pytest.fixture
def clock() -> Clock:
    return Clock()


def watching(clock: Clock, peer: Peer, progress_of: Callable[[Any], Any] = lambda _: None) -> Heartbeats[str]:
    found = Heartbeats[str](every_s=5.0, timeout_s=20.0, clock=clock)
    found.watch("engine 0", peer.ask, progress_of)
    return found


def reasons(heartbeats: Heartbeats[str]) -> list[str]:
    return [reason(error) for error in heartbeats.lost().values()]


def pass_time(clock: Clock, heartbeats: Heartbeats[str], seconds: float) -> list[str]:
    for _ in range(int(seconds)):
        clock.now += 1.0
        found = reasons(heartbeats)
    return found


def test_a_peer_is_asked_now_and_then_and_again_only_once_it_has_answered(clock: Clock, peer: Peer) -> None:
    heartbeats = watching(clock, peer)
    assert pass_time(clock, heartbeats, 4) == []
    assert peer.num_asked == 0
    pass_time(clock, heartbeats, 1)
    assert peer.num_asked == 1
    pass_time(clock, heartbeats, 15)
    assert peer.num_asked == 1
    for expected in (2, 3):
        peer.answer()
        assert pass_time(clock, heartbeats, 6) == []
        assert peer.num_asked == expected


def test_silence_is_a_loss_until_the_peer_is_forgotten(clock: Clock, peer: Peer) -> None:
    heartbeats = watching(clock, peer)
    assert pass_time(clock, heartbeats, 24) == []
    assert pass_time(clock, heartbeats, 1) == ["did not answer for 20 s"]
    peer.answer()
    assert pass_time(clock, heartbeats, 1) == ["did not answer for 20 s"], "the decision stands"
    heartbeats.forget("engine 0")
    assert pass_time(clock, heartbeats, 30) == []
    heartbeats.watch("engine 0", peer.ask)
    assert pass_time(clock, heartbeats, 6) == [], "its successor begins anew"


def test_a_driver_that_was_stopped_blames_nobody(clock: Clock, peer: Peer) -> None:
    heartbeats = watching(clock, peer)
    pass_time(clock, heartbeats, 5)
    clock.now += 3600.0
    assert reasons(heartbeats) == []
    assert pass_time(clock, heartbeats, 20 - LONGEST_GAP_S) == []
    assert pass_time(clock, heartbeats, LONGEST_GAP_S + 1) == ["did not answer for 20 s"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ActorDiedError(), "its process died: killed, crashed or out of memory"),
        (RayTaskError("health", "Traceback", RuntimeError("vLLM has failed")), "RuntimeError: vLLM has failed"),
    ],
)
def test_a_peer_whose_answer_is_an_error_is_lost(clock: Clock, peer: Peer, error: Exception, words: str) -> None:
    heartbeats = watching(clock, peer)
    pass_time(clock, heartbeats, 5)
    peer.answer(error)
    assert pass_time(clock, heartbeats, 1) == [words]


def test_a_peer_that_has_work_must_get_on_with_it(clock: Clock, peer: Peer) -> None:
    heartbeats = watching(clock, peer, progress_of=lambda answer: answer)

    def live(*answers: Any) -> list[str]:
        found = []
        for answer in answers:
            peer.answer(answer)
            found = pass_time(clock, heartbeats, 6)
        return found

    pass_time(clock, heartbeats, 5)
    assert live(7, 7, 7, 8, 8, 8, None, None, None, None, None, 8, 8, 8) == [], "it steps, rests, and steps"
    assert live(8, 8) == ["had work and made no step for 20 s"]
