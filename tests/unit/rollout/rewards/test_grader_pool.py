"""The pool of graders with played actors: who grades what, who is replaced, and when it gives up."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ObjectLostError, RayError, RayTaskError

import rollout.rewards.graders as module
from configs.graders import GradersConfig
from configs.rewards import RewardConfig
from rollout.contract import GroupVerdicts
from rollout.rewards.graders import GraderPool, GradingError, await_verdicts

VERDICTS = GroupVerdicts(verdicts=(), timed_out=0)


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60.0
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class PlayedCall:
    """A method of an actor: its arguments, and the future of each answer."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, Future[Any]]] = []

    def options(self, **_: object) -> "PlayedCall":
        return self

    def remote(self, *arguments: Any) -> Any:
        future: Future[Any] = Future()
        self.asked.append((arguments, future))
        return SimpleNamespace(future=lambda: future)


class PlayedGrader:
    def __init__(self, index: int) -> None:
        self.index = index
        self.grade = PlayedCall()
        self.progress = PlayedCall()
        self.killed = False

    def die(self) -> None:
        for call in (self.grade, self.progress):
            for _, future in call.asked:
                if not future.done():
                    future.set_exception(ActorDiedError())


class Played:
    """Ray as far as the pool knows it, and a pool whose thread looks after the graders all the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.graders: list[PlayedGrader] = []
        self.faults: list[tuple[str, RayError | None]] = []
        monkeypatch.setattr(module, "TICK_S", 0.01)
        ray = SimpleNamespace(remote=lambda **_: lambda _: SimpleNamespace(remote=self.start), kill=self.kill)
        monkeypatch.setattr(module, "ray", ray)

    def start(self, index: int, *_: object, **__: object) -> PlayedGrader:
        self.graders.append(PlayedGrader(index))
        return self.graders[-1]

    def grader(self, number: int, *, num_groups: int) -> PlayedGrader:
        """A grader by the number of its start, once it has that many groups."""
        wait_until(lambda: len(self.graders) > number and len(self.graders[number].grade.asked) == num_groups)
        return self.graders[number]

    def kill(self, grader: PlayedGrader) -> None:
        grader.killed = True

    def pool(self, **config: Any) -> GraderPool:
        self.made = GraderPool(
            GradersConfig(**config), reward=RewardConfig(), on_fault=lambda *fault: self.faults.append(fault)
        )
        return self.made


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Iterator[Played]:
    found = Played(monkeypatch)
    yield found
    found.made.close()


def answer(grader: PlayedGrader) -> None:
    for _, future in grader.grade.asked:
        if not future.done():
            future.set_result(VERDICTS)


def test_groups_go_to_the_grader_with_the_fewest(played: Played) -> None:
    pool = played.pool(num_workers=2)
    waiting = [pool.grade(name) for name in "abcd"]
    first, second = played.graders
    assert [arguments for arguments, _ in first.grade.asked] == [("a",), ("c",)]
    assert [arguments for arguments, _ in second.grade.asked] == [("b",), ("d",)]
    answer(second)
    assert await_verdicts(waiting[1::2]) == [VERDICTS, VERDICTS]
    waiting.append(pool.grade("e"))
    assert second.grade.asked[-1][0] == ("e",)
    answer(first)
    answer(second)
    assert len(await_verdicts(waiting)) == 5
    assert not played.faults


def test_what_a_dead_grader_had_is_graded_by_others_as_often_as_needed(played: Played) -> None:
    pool = played.pool(max_restarts=5)
    waiting = [pool.grade(name) for name in "ab"]
    for number in range(5):
        grader = played.grader(number, num_groups=2)
        grader.die()
    last = played.grader(5, num_groups=2)
    assert [arguments for arguments, _ in last.grade.asked] == [("a",), ("b",)]
    answer(last)
    assert await_verdicts(waiting) == [VERDICTS, VERDICTS]
    died = "grader 0 died; a new one takes its place; groups graded again: 2"
    assert [line for line, _ in played.faults] == [died] * 5
    assert all(isinstance(cause, ActorDiedError) for _, cause in played.faults)


def test_a_stuck_grader_is_ended_and_its_groups_are_graded_by_another(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollout.rewards.watch.ANSWER_MARGIN_S", 0.1)
    pool = played.pool(timeout_s=0.1)
    stuck = played.graders[0]
    stuck.progress.asked[0][1].set_result(0)  # it has started
    graded = pool.grade("a")
    successor = played.grader(1, num_groups=1)
    answer(stuck)  # too late
    assert stuck.killed
    assert not graded.done()
    answer(successor)
    assert await_verdicts([graded]) == [VERDICTS]
    ((fault, cause),) = played.faults
    assert fault.startswith("grader 0 has not answered for 0.2 s; a new one takes its place")
    assert cause is None


def test_a_busy_grader_that_answers_is_left_alone(played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollout.rewards.watch.ANSWER_MARGIN_S", 0.5)
    pool = played.pool(timeout_s=0.5)
    graded = pool.grade("a")
    (busy,) = played.graders
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        wait_until(lambda: not busy.progress.asked[-1][1].done())  # the pool has asked
        busy.progress.asked[-1][1].set_result(len(busy.progress.asked))
    answer(busy)
    assert await_verdicts([graded]) == [VERDICTS]
    assert played.graders == [busy]


def test_the_time_in_which_the_driver_was_stopped_counts_against_nobody(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = played.pool(timeout_s=30.0)
    (grader,) = played.graders
    grader.progress.asked[0][1].set_result(0)
    graded = pool.grade("a")
    wait_until(lambda: len(grader.progress.asked) == 2)  # the pool has looked
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 1000.0))
    grader.progress.asked[1][1].set_result(1)
    wait_until(lambda: len(grader.progress.asked) == 3)
    answer(grader)
    assert await_verdicts([graded]) == [VERDICTS]
    assert played.graders == [grader]


@pytest.mark.parametrize(("hours", "is_too_often"), [(0.5, True), (1.5, False)])
def test_more_replacements_than_allowed_within_an_hour_are_an_error(
    played: Played, monkeypatch: pytest.MonkeyPatch, hours: float, is_too_often: bool
) -> None:
    pool = played.pool(max_restarts=1)
    graded = pool.grade("a")
    played.grader(0, num_groups=1).die()
    second = played.grader(1, num_groups=1)
    later = time.monotonic() + 3600 * hours
    monkeypatch.setattr(pool._replaced, "_clock", lambda: later)
    second.die()
    if is_too_often:
        with pytest.raises(GradingError, match=r"^grader 0 died, and graders\.max_restarts=1 within an hour"):
            await_verdicts([graded])
        with pytest.raises(GradingError, match="max_restarts=1"):
            pool.grade("b")
    else:
        answer(played.grader(2, num_groups=1))
        assert await_verdicts([graded]) == [VERDICTS]


def ray_error(cause: Exception) -> RayTaskError:
    return RayTaskError("grade", "Traceback (most recent call last): Ray's prose", cause).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ray_error(GradingError("prompt 3: reward.extra.own raised")), "^prompt 3: reward.extra.own raised$"),
        (ray_error(OSError(12, "no\nmemory")), r"^grader 0 failed: OSError: \[Errno 12\] no memory$"),
        (ObjectLostError("1" * 56, None, ""), "^a group was lost with the process or machine that held it; see"),
    ],
)
def test_an_error_of_a_group_is_told_in_one_line_and_not_tried_again(
    played: Played, error: Exception, message: str
) -> None:
    pool = played.pool()
    graded = pool.grade("a")
    played.graders[0].grade.asked[0][1].set_exception(error)
    with pytest.raises(GradingError, match=message):
        await_verdicts([graded])
    assert len(played.graders) == 1


def test_graders_that_cannot_start_are_not_started_again_and_again(played: Played) -> None:
    pool = played.pool()
    graded = pool.grade("a")
    played.graders[0].grade.asked[0][1].set_exception(ActorDiedError(RayTaskError("__init__", "prose", OSError(12))))
    with pytest.raises(GradingError, match=r"^grader 0 cannot start; the cause is in the run's log$"):
        await_verdicts([graded])
    assert len(played.graders) == 1


def test_a_closed_pool_keeps_nobody_waiting(played: Played) -> None:
    pool = played.pool()
    graded = pool.grade("a")
    pool.close()
    with pytest.raises(GradingError, match="have been ended"):
        await_verdicts([graded])
    pool.close()
