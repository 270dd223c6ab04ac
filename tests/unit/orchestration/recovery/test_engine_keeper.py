"""EngineKeeper and LastingPublisher with a fleet, places and a channel that record what happens; no Ray, no threads."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayActorError, RayError

from configs.schema import ClusterConfig, RolloutConfig
from orchestration.placement import PlacementError
from orchestration.recovery import engine_keeper
from orchestration.recovery.engine_keeper import EngineKeeper
from orchestration.recovery.faults import Faults, TooManyFaults
from orchestration.recovery.publishing import LastingPublisher
from rollout.fleets.fleet import EngineLost
from transfer.answers import Answers, PeerStuck

DIED = "its process died: killed, crashed or out of memory"


class FakeFleet:
    """Engines by number; `fail` makes one lost."""

    def __init__(self, *engines: int) -> None:
        self.members = {engine: f"engine {engine}" for engine in engines}
        self.open = set(engines)
        self.failed: dict[int, RayActorError] = {}
        self.rooms: dict[int, str] = {}

    @property
    def numbers(self) -> set[int]:
        return set(self.members)

    @property
    def is_open(self) -> bool:
        return bool(self.open & self.numbers)

    def fail(self, engine: int, error: RayActorError | None = None) -> None:
        self.failed[engine] = error or ActorDiedError()

    def lost(self) -> dict[int, RayActorError]:
        return dict(self.failed)

    def remove(self, engine: int) -> str:
        self.failed.pop(engine, None)
        self.open.discard(engine)
        return self.members.pop(engine)

    def add(self, engine: int, handle: Any) -> None:
        assert engine not in self.members
        self.members[engine] = handle

    def set_rooms(self, rooms: dict[int, str]) -> None:
        self.rooms |= rooms


class FakePlaces:
    """Places for all engines but those in `without`; an engine that is started is up when the test says so."""

    def __init__(self) -> None:
        self.without: set[int] = set()
        self.loading: dict[str, Any] = {}  # what the engine answers, by name; "": nothing yet
        self.ended: list[Any] = []
        self.num_started = 0

    def placed(self) -> list[int]:
        return [engine for engine in range(4) if engine not in self.without]

    def start(self, engine: int) -> Any:
        self.num_started += 1
        name = f"engine {engine}, start {self.num_started}"
        self.loading[name] = ""
        return SimpleNamespace(name=name, room=SimpleNamespace(remote=lambda: name))

    def end(self, engine: int, handle: Any) -> None:
        self.ended.append(getattr(handle, "name", handle))

    def shortage(self) -> str:
        return "still missing 1 bundle"

    def finish(self, answer: Any = "room") -> None:
        """Lets all that load answer."""
        self.loading = {name: answer if state == "" else state for name, state in self.loading.items()}


class Scene:
    """A keeper and what is around it; its clock moves when it sleeps, and `on_sleep` happens then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *engines: int, **rollout: int) -> None:
        self.fleet, self.places, self.lines = FakeFleet(*engines), FakePlaces(), list[str]()
        self.now = 0.0
        self.on_sleep: list[Any] = []
        monkeypatch.setattr(engine_keeper, "await_answers", self._await_answers)
        monkeypatch.setattr(engine_keeper, "time", SimpleNamespace(sleep=self._sleep))
        monkeypatch.setattr(engine_keeper, "Patience", lambda limit_s: iter([0.5] * int(2 * limit_s) + [0.0]))
        self.keeper = EngineKeeper(
            self.fleet,  # type: ignore[arg-type]
            self.places,
            Faults(self.lines.append, max_restarts=rollout.pop("max_restarts", 10)),
            rollout=RolloutConfig(**{"num_engines": 2, **rollout}),
            cluster=ClusterConfig(start_timeout_s=20.0, placement_timeout_s=8.0),
            check_every_s=5.0,
            clock=lambda: self.now,
        )

    def _await_answers(self, calls: dict[int, str], *, timeout_s: float) -> Answers[int]:
        assert timeout_s == 0.0, "the keeper waits for nothing here"
        given = {engine: self.places.loading[name] for engine, name in calls.items()}
        errors = {engine: answer for engine, answer in given.items() if isinstance(answer, RayError)}
        return Answers(
            results={e: answer for e, answer in given.items() if answer and e not in errors},
            failures=errors,
            silent=tuple(e for e, answer in given.items() if answer == ""),
        )

    def _sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.1)
        if self.on_sleep:
            self.on_sleep.pop(0)()


def test_a_lost_engine_is_ended_and_another_one_takes_its_place_when_it_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, 0, 1)
    scene.fleet.fail(1)
    scene.keeper.tend()
    assert scene.places.ended == ["engine 1"]
    assert scene.fleet.numbers == {0}
    assert scene.lines == [f"engine 1: {DIED}; a new one is starting (1 of at most 10 restarts an hour)"]
    scene.now = 7.0
    scene.keeper.tend()
    assert scene.places.num_started == 1
    scene.places.finish()
    scene.keeper.tend()
    assert scene.fleet.numbers == {0, 1}
    assert scene.fleet.rooms == {1: "room"}
    assert scene.lines[1:] == ["engine 1 is back after 7 s; it takes prompts once it has the weights"]


def test_an_engine_that_fails_to_load_or_takes_too_long_is_started_again_until_it_is_too_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(monkeypatch, 0, 1, max_restarts=2)
    scene.fleet.fail(0)
    scene.keeper.tend()
    scene.places.finish(ActorDiedError())
    scene.keeper.tend()
    assert scene.places.ended == ["engine 0", "engine 0, start 1"]
    for _ in range(40):  # slices of half a second
        scene.keeper.tend()
    with pytest.raises(TooManyFaults, match=r"engine 0: did not load within cluster.start_timeout_s=20 s; .*2 an hour"):
        await_end(scene)
    assert scene.places.ended == ["engine 0", "engine 0, start 1", "engine 0, start 2"]


def await_end(scene: Scene) -> None:
    for _ in range(5):
        scene.keeper.tend()


def test_the_members_stay_during_a_publish(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, 0, 1)

    def send() -> set[int]:
        scene.fleet.fail(1)
        scene.keeper.tend()
        return scene.fleet.numbers

    assert scene.keeper.reach_all(send) == {0, 1}
    scene.keeper.tend()
    assert scene.fleet.numbers == {0}


def test_an_engine_without_a_place_waits_for_one_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, 0, 1, num_engines=3)
    scene.places.without = {2}
    scene.keeper.tend()
    scene.places.without = {1, 2}
    scene.fleet.fail(1)
    scene.keeper.tend()
    assert scene.places.num_started == 0
    assert "the run goes on with 1 engine(s) until the cluster has a place for a new one" in scene.lines[0]
    scene.now = 4.0
    scene.places.without = set()
    scene.keeper.tend()
    assert scene.places.num_started == 0, "it looks every 5 s"
    scene.now = 9.0
    scene.keeper.tend()
    scene.places.finish()
    scene.keeper.tend()
    assert scene.fleet.numbers == {0, 1, 2}
    assert sorted(scene.lines[1:]) == [
        "engine 1 is back after 9 s; it takes prompts once it has the weights",
        "engine 2 joins; it takes prompts once it has the weights",
    ]


def test_an_engine_that_loses_its_place_while_it_loads_is_no_further_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, 0, 1)
    scene.fleet.fail(1)
    scene.keeper.tend()
    scene.places.without = {1}
    scene.now = 5.0
    scene.keeper.tend()
    assert scene.places.ended == ["engine 1", "engine 1, start 1"]
    scene.places.without = set()
    scene.now = 10.0
    scene.keeper.tend()
    assert scene.places.num_started == 2
    assert len(scene.lines) == 1
    scene.keeper.close()
    assert scene.places.ended[-1] == "engine 1, start 2"


def test_with_no_engine_left_a_wait_for_groups_waits_for_one_and_publishes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = Scene(monkeypatch, 0, num_engines=1)
    published: list[set[int]] = []

    def publish(version: int) -> str:
        assert version == 3
        published.append(scene.fleet.numbers)
        scene.fleet.open = scene.fleet.numbers
        return "report"

    publisher = LastingPublisher(SimpleNamespace(publish=publish), scene.keeper)  # type: ignore[arg-type]
    publisher.publish(3)
    scene.keeper.serve(publisher.publish_again)
    assert published == [{0}]
    scene.fleet.fail(0, PeerStuck("did not answer for 60 s"))
    scene.on_sleep = [lambda: None, scene.places.finish]
    scene.keeper.serve(publisher.publish_again)
    assert published == [{0}, {0}]
    assert scene.fleet.members[0] != "engine 0"
    assert scene.fleet.is_open


def test_a_publish_that_loses_an_engine_is_repeated_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, 0, 1)
    attempts: list[set[int]] = []

    def publish(version: int) -> str:
        attempts.append(scene.fleet.numbers)
        if len(attempts) == 1:
            raise EngineLost({1: ActorDiedError()})
        return f"report {version}"

    publisher = LastingPublisher(SimpleNamespace(publish=publish), scene.keeper)  # type: ignore[arg-type]
    assert publisher.publish(5) == "report 5"
    assert attempts == [{0, 1}, {0}]
    assert scene.places.ended == ["engine 1"]


def test_a_run_with_too_few_engines_waits_for_places_and_ends_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, 0, 1, min_engines=2)
    scene.places.without = {1}
    scene.fleet.fail(1)
    with pytest.raises(PlacementError) as ended:
        scene.keeper.await_engines()
    assert str(ended.value) == (
        "1 engine(s) are left, at least 2 are needed, and the others have no place within "
        "cluster.placement_timeout_s=8 s; still missing 1 bundle. Add a node, then go on: a run with resume=true, an "
        "evaluation with the same command"
    )
    scene.on_sleep = [lambda: scene.places.without.clear(), *[lambda: None] * 100, scene.places.finish]
    scene.keeper.await_engines()
    assert scene.fleet.numbers == {0, 1}, "one that has a place may load for longer"
