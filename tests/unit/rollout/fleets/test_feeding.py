"""Feeding: who goes first, where to, and how much an engine is given."""

from collections import Counter
from collections.abc import Iterable

import pytest

from rollout.contract import EngineLoad, EngineRoom
from rollout.fleets.feeding import Feeder, WaitingGroup, wants_more

WIDE = EngineRoom(num_sequences=1000, kv_tokens=10**9)


def group(ticket: int, *, expected: float = 10.0, due: int = 0, sequences: int = 4, prompt: int = 0) -> WaitingGroup:
    return WaitingGroup(
        ticket=ticket, due=due, num_sequences=sequences, num_prompt_tokens=prompt, expected_tokens=expected
    )


def feeder_of(*rooms: EngineRoom, groups: Iterable[WaitingGroup]) -> Feeder:
    feeder = Feeder(range(len(rooms)))
    feeder.set_rooms(dict(enumerate(rooms)))
    for waiting in groups:
        feeder.hold(waiting)
    return feeder


def load(running: int, waiting: int = 0, usage: float = 0.0) -> EngineLoad:
    return EngineLoad(num_running=running, num_waiting=waiting, kv_usage=usage)


def test_the_due_go_first_and_of_these_the_longest() -> None:
    groups = [group(0, due=1, expected=99), group(1, expected=5), group(2, expected=50), group(3, expected=5)]
    feeder = feeder_of(WIDE, groups=groups)
    assert [ticket for _, ticket in feeder.assign()] == [2, 1, 3, 0]
    assert (feeder.num_waiting, feeder.num_unfinished(0)) == (0, 4)


def test_each_goes_to_the_engine_with_the_least_work() -> None:
    lengths = [40, 10, 10, 10, 30, 20]
    feeder = feeder_of(WIDE, WIDE, groups=[group(ticket, expected=n) for ticket, n in enumerate(lengths)])
    work = Counter[int]()
    for engine, ticket in feeder.assign():
        work[engine] += lengths[ticket]
    assert work == {0: 60, 1: 60}


def test_an_engine_gets_its_places_and_a_backlog_and_then_what_its_report_makes_room_for() -> None:
    room = EngineRoom(num_sequences=64, kv_tokens=10**6)
    feeder = feeder_of(room, groups=[group(ticket) for ticket in range(40)])
    assert len(list(feeder.assign())) == (64 + 8) // 4
    assert list(feeder.assign()) == []

    # Completions of unfinished groups have ended: 30 places are free, of which no group tells.
    feeder.report(0, finished=(), load=load(running=42), num_entered=18)
    assert len(list(feeder.assign())) == (72 - 42) // 4
    feeder.report(0, finished=(0, 1), load=load(running=64, waiting=8), num_entered=25)
    assert list(feeder.assign()) == []


def test_what_a_report_could_not_count_yet_is_not_handed_over_twice() -> None:
    room = EngineRoom(num_sequences=64, kv_tokens=10**6)
    feeder = feeder_of(room, groups=[group(ticket) for ticket in range(40)])
    assert len(list(feeder.assign())) == 18
    feeder.report(0, finished=(), load=load(running=40), num_entered=10)  # eight groups were still on their way
    assert list(feeder.assign()) == []


def test_the_key_value_cache_limits_what_an_engine_gets() -> None:
    room = EngineRoom(num_sequences=1000, kv_tokens=500)
    groups = [group(ticket, expected=20, prompt=5) for ticket in range(9)]  # 100 tokens each
    feeder = feeder_of(room, groups=groups)
    assert len(list(feeder.assign())) == 5
    feeder.report(0, finished=(0, 1), load=load(running=12, usage=0.9), num_entered=5)
    assert list(feeder.assign()) == [], "vLLM says that it is nearly full, whatever was expected"
    feeder.report(0, finished=(2,), load=load(running=8, usage=0.3), num_entered=5)
    assert len(list(feeder.assign())) == 3


def test_a_group_too_large_for_an_empty_engine_goes_alone() -> None:
    room = EngineRoom(num_sequences=2, kv_tokens=10)
    feeder = feeder_of(room, groups=[group(0, expected=100), group(1, expected=100)])
    assert list(feeder.assign()) == [(0, 0)]
    feeder.report(0, finished=(0,), load=load(running=0), num_entered=1)
    assert list(feeder.assign()) == [(0, 1)]


def test_a_small_group_does_not_overtake_a_large_one_for_ever() -> None:
    room = EngineRoom(num_sequences=1000, kv_tokens=400)
    groups = [group(0, expected=60, due=0), group(1, expected=80, due=1), group(2, expected=10, due=2)]
    feeder = feeder_of(room, groups=groups)
    assert [ticket for _, ticket in feeder.assign()] == [0]
    feeder.report(0, finished=(0,), load=load(running=0), num_entered=1)
    assert [ticket for _, ticket in feeder.assign()] == [1, 2]


def test_a_closed_engine_gets_nothing_more() -> None:
    feeder = feeder_of(WIDE, WIDE, groups=[group(ticket) for ticket in range(4)])
    feeder.close(0)
    assert {engine for engine, _ in feeder.assign()} == {1}
    feeder.close(1)
    feeder.hold(group(9))
    assert list(feeder.assign()) == []


def test_what_a_removed_engine_had_not_finished_goes_to_another_in_its_turn() -> None:
    feeder = feeder_of(WIDE, WIDE, groups=[group(ticket, due=ticket) for ticket in range(6)])
    handed: dict[int, list[int]] = {0: [], 1: []}
    for engine, ticket in feeder.assign():
        handed[engine].append(ticket)
    feeder.report(0, finished=(0,), load=load(running=8), num_entered=3)
    feeder.hold(group(9, due=3))
    feeder.remove(0)
    assert feeder.num_waiting == 3
    assert list(feeder.assign()) == [(1, ticket) for ticket in (handed[0][1], 9, handed[0][2])]


def test_a_new_engine_is_handed_groups_once_it_is_open_and_as_many_as_it_has_room_for() -> None:
    feeder = feeder_of(WIDE, groups=[])
    feeder.remove(0)
    feeder.add(0)
    feeder.add(5)
    feeder.set_rooms(dict.fromkeys((0, 5), EngineRoom(num_sequences=8, kv_tokens=10**6)))
    for ticket in range(9):
        feeder.hold(group(ticket))
    assert list(feeder.assign()) == []
    feeder.open(5)
    assert list(feeder.assign()) == [(5, 0), (5, 1), (5, 2)]
    feeder.open(0)
    assert list(feeder.assign()) == [(0, 3), (0, 4), (0, 5)]


@pytest.mark.parametrize(("waiting", "expected"), [(0, True), (4, True), (5, False), (8, False)])
def test_an_engine_asks_for_more_when_half_of_its_backlog_is_gone(waiting: int, expected: bool) -> None:
    room = EngineRoom(num_sequences=64, kv_tokens=1000)
    assert wants_more(load(running=64, waiting=waiting), room) is expected
