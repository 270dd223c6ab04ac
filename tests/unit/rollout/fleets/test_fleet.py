"""RolloutFleet on fake engines: what is handed over when, what comes back to whom, and who is blamed."""

import threading
import time
from typing import Any

import pytest
from fake_engines import FakeEngine, prompt_of, sampling_of
from ray.exceptions import RayActorError, RayTaskError

from rollout.contract import EngineLoad, EngineRoom
from rollout.fleets.engine_pool import EnginePool
from rollout.fleets.fleet import EngineError, EngineLost, FinishedGroup, RolloutFleet
from transfer.answers import PeerStuck

ROOM = EngineRoom(num_sequences=8, kv_tokens=10_000)  # four groups of two, and one as backlog


def fleet_of(*engines: FakeEngine, room: EngineRoom | None = None, timeout_s: float = 30.0) -> RolloutFleet:
    pool = EnginePool(dict(enumerate(engines)))
    if room is not None:
        pool.set_rooms(dict.fromkeys(pool.engines, room))
    return RolloutFleet(pool, workers_per_engine=1, timeout_s=timeout_s)


def indices(groups: list[FinishedGroup]) -> list[int]:
    return [group.summary.position for group in groups]


def test_prompts_go_out_in_one_call_and_groups_come_back_in_one() -> None:
    engine = FakeEngine()
    fleet = fleet_of(engine)
    with fleet._pool.arrived:  # so that the fleet's thread does not hand the first ones over meanwhile
        for index in range(8):
            fleet.submit(prompt_of(index), sampling_of())
        fleet._pool.hand_over()
    assert (len(engine.inside), engine.num_calls) == (8, 2)
    engine.finish(*range(8))
    assert indices(fleet.await_finished()) == list(range(8))
    assert fleet.num_in_flight == 0
    assert engine.num_calls == 2, "an engine without work is not called"


def test_prompts_reach_an_engine_even_if_nobody_waits_for_them() -> None:
    engine = FakeEngine()
    called = threading.Event()

    def start(*args: Any, **keywords: Any) -> None:
        engine._start(*args, **keywords)
        called.set()

    engine.start.remote = start
    fleet_of(engine).submit(prompt_of(0), sampling_of())
    assert called.wait(timeout=30.0)


def test_what_has_no_room_waits_and_goes_to_whoever_has_room_first() -> None:
    events: list[tuple[str, ...]] = []
    left, right = FakeEngine("left", events), FakeEngine("right", events)
    fleet = fleet_of(left, right, room=ROOM)
    with fleet._pool.arrived:
        for index in range(14):
            fleet.submit(prompt_of(index), sampling_of())
        fleet._pool.hand_over()
    assert (len(left.inside), len(right.inside)) == (5, 5)
    assert left.holds_back
    assert right.holds_back

    # The right engine has sampled most of its completions, though no whole group: it gets more.
    right.finish(load=EngineLoad(num_running=4, num_waiting=0, kv_usage=0.0))
    left.finish(next(iter(left.inside)), load=EngineLoad(num_running=8, num_waiting=0, kv_usage=0.0))
    fleet.await_finished()
    assert len(right.inside) == 8
    assert len(left.inside) == 5
    assert fleet.num_in_flight == 13
    assert not left.holds_back


def test_engines_hear_of_prompts_held_back_after_their_call_was_opened() -> None:
    engine = FakeEngine()
    fleet = fleet_of(engine, room=ROOM)
    with fleet._pool.arrived:
        for index in range(5):
            fleet.submit(prompt_of(index), sampling_of())
        fleet._pool.hand_over()
        assert not engine.holds_back
        fleet.submit(prompt_of(5), sampling_of())
        fleet.submit(prompt_of(6), sampling_of())
        fleet._pool.hand_over()
        assert (engine.holds_back, len(engine.inside)) == (True, 5)
        calls = engine.num_calls
        fleet.submit(prompt_of(7), sampling_of())
        fleet._pool.hand_over()
        assert engine.num_calls == calls, "it knows"


def test_the_longest_expected_go_first_and_an_evaluation_before_the_training() -> None:
    engine = FakeEngine()
    fleet = fleet_of(engine)
    for index, tokens in enumerate((4, 40, 20)):
        fleet.submit(prompt_of(index, text=f"problem {index}"), sampling_of())
        fleet._pool.hand_over()
        engine.finish(index, num_tokens=tokens)
        fleet.await_finished()
    engine.events.clear()
    evaluation = fleet.sibling()
    with fleet._pool.arrived:
        for index in range(3):
            fleet.submit(prompt_of(10 + index, text=f"problem {index}"), sampling_of())
        evaluation.submit(prompt_of(0, text="held out"), sampling_of(), due=-1)
        fleet._pool.hand_over()
    assert engine.events == [("engine", "0", "11", "12", "10")]


def test_two_fleets_share_engines_and_each_gets_its_own_groups() -> None:
    engine = FakeEngine()
    fleet = fleet_of(engine, room=ROOM)
    sibling = fleet.sibling()
    with fleet._pool.arrived:
        for index in range(3):
            fleet.submit(prompt_of(index), sampling_of())
            sibling.submit(prompt_of(10 + index), sampling_of())
        fleet._pool.hand_over()
    assert len(engine.inside) == 5, "one room for both"
    engine.finish(*list(engine.inside))
    first = indices(fleet.await_finished())
    assert set(first) | set(indices(sibling.await_finished())) <= {0, 1, 2, 10, 11, 12}
    assert all(index < 10 for index in first)
    engine.finish(*list(engine.inside))
    while fleet.num_in_flight:
        first += indices(fleet.await_finished())
    assert sorted(first) == [0, 1, 2]


def test_a_dead_engine_is_named_after_what_the_others_finished_was_given_out() -> None:
    left, right = FakeEngine(), FakeEngine()
    fleet = fleet_of(left, right)
    for index in range(2):
        fleet.submit(prompt_of(index), sampling_of())
    fleet._pool.hand_over()
    left.finish(*left.inside)
    assert len(fleet.await_finished()) == 1
    right.fail(RayActorError())
    with pytest.raises(EngineError, match="engine 1 failed: its process died"):
        fleet.await_finished()


@pytest.mark.parametrize("is_well", [True, False])
def test_a_failed_request_is_told_with_the_engines_own_words(monkeypatch: pytest.MonkeyPatch, is_well: bool) -> None:
    """An engine that is well may have others of its prompts sampled; of one whose vLLM has failed nothing comes."""
    engine = FakeEngine()
    fleet = fleet_of(engine)
    monkeypatch.setattr(
        fleet, "unwell", lambda engines: {} if is_well else dict.fromkeys(engines, PeerStuck("vLLM has failed"))
    )
    fleet.submit(prompt_of(0), sampling_of())
    fleet._pool.hand_over()
    engine.fail(RayTaskError("collect", "traceback", ValueError("prompt is too long")))
    with pytest.raises(EngineError, match="engine 0 failed: ValueError: prompt is too long") as failed:
        fleet.await_finished()
    assert isinstance(failed.value, EngineLost) != is_well


def test_silent_engines_are_named() -> None:
    engines = [FakeEngine(), FakeEngine(), FakeEngine()]
    fleet = fleet_of(*engines, timeout_s=0.01)
    for index in range(2):
        fleet.submit(prompt_of(index), sampling_of())
    with pytest.raises(EngineError, match=r"no group finished within rollout.timeout_s=0.01 s; .* work: \[0, 1\]"):
        fleet.await_finished()


def test_short_waits_bring_nothing_or_what_has_come_and_add_up_to_the_silence_that_is_an_error() -> None:
    engine = FakeEngine()
    fleet = fleet_of(engine, timeout_s=0.05)
    for index in range(2):
        fleet.submit(prompt_of(index), sampling_of())
    assert fleet.await_finished(at_most_s=0.04) == []
    engine.finish(0)
    with fleet._pool.arrived:
        assert fleet._pool.arrived.wait_for(lambda: fleet._mailbox.groups, timeout=30.0)
    assert indices(fleet.await_finished(at_most_s=0.02)) == [0]
    for _ in range(2):
        assert fleet.await_finished(at_most_s=0.02) == []
    with pytest.raises(EngineError, match=r"no group finished within rollout.timeout_s=0.05 s"):
        fleet.await_finished(at_most_s=0.02)


def test_a_group_is_graded_on_arrival_while_the_driver_does_something_else() -> None:
    engine = FakeEngine()
    graded = threading.Event()

    def grade(group_ref: Any) -> tuple[str, Any]:
        graded.set()
        return "verdicts", group_ref

    fleet = fleet_of(engine).sibling(grade=grade)
    fleet.submit(prompt_of(0), sampling_of())
    fleet._pool.hand_over()
    before = time.perf_counter()
    engine.finish(0)
    assert graded.wait(timeout=30.0), "nobody has asked the fleet for anything"
    asked = time.perf_counter()
    (group,) = fleet.await_finished()
    assert group.verdicts_ref == ("verdicts", group.group_ref)
    assert before < group.finished_at < asked


def test_an_error_on_the_way_to_the_graders_reaches_the_driver_and_only_that_fleet() -> None:
    engine = FakeEngine()

    def grade(_: Any) -> None:
        raise ValueError("no grader is left")

    fleet = fleet_of(engine)
    training = fleet.sibling(grade=grade)
    training.submit(prompt_of(0), sampling_of())
    fleet.submit(prompt_of(1), sampling_of())
    fleet._pool.hand_over()
    engine.finish(0)
    with fleet._pool.arrived:
        assert fleet._pool.arrived.wait_for(lambda: training._mailbox.error is not None, timeout=30.0)
    with pytest.raises(ValueError, match="no grader is left"):
        training.await_finished()
    engine.finish(1)
    assert indices(fleet.await_finished()) == [1], "the thread that talks to the engines goes on"


def test_others_sample_what_a_removed_engine_had_not_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = FakeEngine(), FakeEngine()
    fleet = fleet_of(left, right)
    with fleet._pool.arrived:
        for index in range(4):
            fleet.submit(prompt_of(index), sampling_of())
        fleet._pool.hand_over()
    kept, lost = list(left.inside), list(right.inside)
    right.fail(RayActorError())
    with pytest.raises(EngineError, match="engine 1 failed"):
        fleet.await_finished()
    assert fleet.remove(1) is right
    assert list(left.inside) == [*kept, *lost]
    left.finish(*kept)
    found = indices(fleet.await_finished())
    left.finish(*lost)
    assert sorted([*found, *indices(fleet.await_finished())]) == [0, 1, 2, 3], "each came back once"
    assert fleet.engines == [left]


def test_who_waits_for_groups_lets_engines_be_replaced_and_waits_anew() -> None:
    left, right = FakeEngine(), FakeEngine()
    fleet = fleet_of(left, right, timeout_s=0.5)
    with fleet._pool.arrived:
        for index in range(2):
            fleet.submit(prompt_of(index), sampling_of())
        fleet._pool.hand_over()
    looks, seen = 0, dict[int, Any]()

    def tend() -> None:
        """Removes what was lost at its last look: an engine may be lost right after a look."""
        nonlocal looks, seen
        looks += 1
        for engine in seen:
            fleet.remove(engine)
            left.finish(0)
        seen = fleet.lost()

    fleet.tend_with(tend)
    assert fleet.await_finished(at_most_s=0.4) == []
    right.fail(RayActorError())
    assert indices(fleet.await_finished(at_most_s=0.4)) == [0], "the limit of 0.5 s begins again with the prompts"
    assert looks >= 3
    assert (fleet.numbers, list(left.inside)) == ({0}, [1])


def test_what_is_forgotten_goes_nowhere_and_counts_for_nothing() -> None:
    left, right = FakeEngine(), FakeEngine()
    fleet = fleet_of(left, right, room=ROOM)
    with fleet._pool.arrived:
        for index in range(14):
            fleet.submit(prompt_of(index), sampling_of())
        fleet._pool.hand_over()
    inside = [*left.inside, *right.inside]
    fleet.forget_submitted()
    after = fleet.sibling()
    after.submit(prompt_of(20), sampling_of())
    left.finish(*left.inside)
    assert fleet.remove(1) is right
    fleet._pool.hand_over()
    assert set(left.inside) <= {20}, f"neither those that waited nor those of the removed engine: {inside}"
    with after._pool.arrived:
        assert after._pool.arrived.wait_for(lambda: left.inside, timeout=30.0)
    left.finish(20)
    assert indices(after.await_finished()) == [20]
    assert (after.num_in_flight, len(fleet._mailbox.groups)) == (0, 0)


def test_a_late_answer_of_a_removed_engine_counts_for_nothing() -> None:
    left, right = FakeEngine(), FakeEngine()
    fleet = fleet_of(left, right)
    with fleet._pool.arrived:
        for index in range(2):
            fleet.submit(prompt_of(index), sampling_of())
        fleet._pool.hand_over()
    fleet.remove(1)
    fleet.add(1, FakeEngine("successor"))
    right.finish(*right.inside)
    left.finish(0)
    found = indices(fleet.await_finished())
    left.finish(1)
    found += indices(fleet.await_finished())
    assert (found, fleet.num_in_flight) == ([0, 1], 0)


def test_a_new_engine_gets_prompts_with_its_first_publish_and_no_more_than_its_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rollout.fleets.fleet.ray.put", lambda groups: groups)
    old, new = FakeEngine("old"), FakeEngine("new")
    fleet = fleet_of(old, room=ROOM)
    fleet.add(3, new)
    fleet._pool.set_rooms({3: ROOM})
    with fleet._pool.arrived:
        for index in range(12):
            fleet.submit(prompt_of(index), sampling_of())
        fleet._pool.hand_over()
        assert (len(old.inside), len(new.inside)) == (5, 0)
        assert list(fleet.start_receive(7, [], verify=True)) == [0, 3]
        assert (len(old.inside), len(new.inside)) == (5, 5)
    assert new.events[0] == ("new", "receive"), "its prompts wait there for the weights"
    new.finish(*new.inside)
    assert sorted(indices(fleet.await_finished())) == [5, 6, 7, 8, 9]
    assert fleet.num_workers == 2
