"""RoomWatch: an engine tells of room when there is some, not at every step."""

from rollout.contract import EngineLoad, EngineRoom
from rollout.engines.room_watch import RoomWatch

ROOM = EngineRoom(num_sequences=64, kv_tokens=1000)  # backlog 8, news from 4 sequences on


def told(watch: RoomWatch, running: int, waiting: int = 0, *, entered: int = 8) -> bool:
    """Takes a step; a load that is to be told is told."""
    wants = watch.stepped(EngineLoad(num_running=running, num_waiting=waiting, kv_usage=0.0), entered)
    if wants:
        watch.reported()
    return wants


def test_an_engine_tells_of_room_once_for_every_sixteenth_that_ended() -> None:
    watch = RoomWatch(ROOM)
    watch.is_wanted = True
    steps = [(64, 8), (64, 6), (64, 5), (64, 4), (64, 2), (64, 0), (61, 0), (60, 0), (59, 0), (56, 0)]
    assert [told(watch, *step) for step in steps] == [False] * 3 + [True, False, True, False, True, False, True]


def test_it_is_silent_where_nothing_is_held_back() -> None:
    watch = RoomWatch(ROOM)
    assert [told(watch, running) for running in (64, 30, 0)] == [False] * 3
    told(watch, 64)
    watch.is_wanted = True
    assert told(watch, 30), "it counts from the peak, although it was not asked then"


def test_what_groups_told_is_no_news() -> None:
    watch = RoomWatch(ROOM)
    watch.is_wanted = True
    told(watch, 64)
    watch.load = EngineLoad(num_running=40, num_waiting=0, kv_usage=0.0)
    watch.reported()
    assert [told(watch, running) for running in (40, 37, 36)] == [False, False, True]


def test_requests_count_as_seen_only_after_two_further_steps() -> None:
    watch = RoomWatch(ROOM)
    counted = []
    for entered in (5, 5, 9, 9, 9):
        told(watch, 1, entered=entered)
        counted.append(watch.num_counted)
    assert counted == [0, 0, 5, 5, 9]
