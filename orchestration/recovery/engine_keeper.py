"""EngineKeeper: ends engines that died or are stuck, and starts others in their places while the run goes on.

In: a fleet, which tells what it has lost, and the places in which engines start. Out: a fleet whose members change
between two publishes; what a lost engine had not finished goes to the others. The driver's waits call tend() and
serve(): there is no thread, so that nothing changes in the middle of a publish. Knows nothing of weights.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ray.exceptions import RayActorError

from configs.schema import ClusterConfig, RolloutConfig
from orchestration.placement import PlacementError
from orchestration.recovery.faults import Faults
from orchestration.terminal.console import duration
from rollout.fleets.fleet import EngineLost, RolloutFleet
from transfer.answers import PeerStuck, as_death, await_answers, reason
from transfer.patience import Patience

POLL_S = 0.1  # pause between two looks at engines that load

ResultT = TypeVar("ResultT")


class EnginePlaces(Protocol):
    """The places of a run's engines in the cluster, by number."""

    def placed(self) -> list[int]:
        """Engines for which the cluster has a place now."""
        ...

    def start(self, engine: int) -> Any:
        """The handle of a new engine in its place; it loads in the background."""
        ...

    def end(self, engine: int, handle: Any) -> None:
        """Ends an engine's processes, those that are stopped or stuck too; does not wait."""
        ...

    def shortage(self) -> str:
        """What the cluster lacks for those without a place."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loading:
    """An engine that loads."""

    handle: Any
    room: Any  # reference of its EngineRoom, which it answers once it is up
    patience: Iterator[float]  # the time that it may take


class EngineKeeper:
    """Keeps rollout.num_engines engines in the fleet, as far as the cluster has places and faults are not too many."""

    def __init__(
        self,
        fleet: RolloutFleet,
        places: EnginePlaces,
        faults: Faults,
        *,
        rollout: RolloutConfig,
        cluster: ClusterConfig,
        check_every_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """check_every_s: pause between two looks for the places of engines that have none."""
        self._fleet = fleet
        self._places = places
        self._faults = faults
        self._rollout = rollout
        self._cluster = cluster
        self._check_every_s = check_every_s
        self._clock = clock
        self._checked_at = clock()
        self._loading: dict[int, _Loading] = {}
        self._lost_at: dict[int, float] = {}  # times at which engines were lost that are not back
        self._is_held = False

    def reach_all(self, send: Callable[[], ResultT]) -> ResultT:
        """Calls send(), which gives weights to every engine, anew until none is lost meanwhile; what it returned.

        Waits for engines first where too few are left.
        """
        while True:
            self.await_engines()
            try:
                with self._held():
                    return send()
            except EngineLost as lost:
                for engine, error in lost.causes.items():
                    self.replace(engine, error)

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Keeps the members of the fleet as they are: a publish ends with the engines with which it began."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False

    def tend(self) -> None:
        """Replaces engines that are lost and takes in those that have loaded; waits for nothing. TooManyFaults."""
        if self._is_held:
            return
        for engine, error in self._fleet.lost().items():
            self.replace(engine, error)
        self._take_in_loaded()
        if self._clock() - self._checked_at >= self._check_every_s:
            self._start_missing()

    def serve(self, publish_again: Callable[[], object]) -> None:
        """As tend(), for a wait for groups: where no engine is left that could make them, it waits for one.

        publish_again: sends the weights published last to the engines there are.
        """
        self.tend()
        if not self._fleet.is_open:
            publish_again()

    def replace(self, engine: int, error: RayActorError) -> None:
        """Takes an engine out of the fleet, ends it, and starts another one as soon as there is a place."""
        self._places.end(engine, self._fleet.remove(engine))
        self._begin_again(engine, error)

    def await_engines(self) -> None:
        """Waits until the fleet has as many engines as the run needs to go on; PlacementError where places are missing.

        Engines that load are waited for in any case: each has a limit of its own.
        """
        needed = self._rollout.engines_to_go_on
        for slice_s in Patience(self._cluster.placement_timeout_s):
            self.tend()
            if len(self._fleet.numbers) < needed:
                self._start_missing()
            while self._loading and len(self._fleet.numbers) < needed:
                time.sleep(POLL_S)
                self.tend()
            if len(self._fleet.numbers) >= needed:
                return
            time.sleep(slice_s)
        raise PlacementError(
            f"{len(self._fleet.numbers)} engine(s) are left, at least {needed} are needed, and the others have no "
            f"place within cluster.placement_timeout_s={self._cluster.placement_timeout_s:g} s; "
            f"{self._places.shortage()}. Add a node, then go on: a run with resume=true, an evaluation "
            "with the same command"
        )

    def close(self) -> None:
        """Ends the engines that still load; those of the fleet are the fleet's."""
        for engine, loading in self._loading.items():
            self._places.end(engine, loading.handle)
        self._loading.clear()

    def _begin_again(self, engine: int, error: RayActorError) -> None:
        what = f"engine {engine}: {reason(error)}"
        words = self._faults.admit("engines", what, error)
        self._lost_at.setdefault(engine, self._clock())
        self._start_missing()
        if engine in self._loading:
            self._faults.tell(f"{what}; a new one is starting ({words})")
        else:
            self._faults.tell(
                f"{what}; the run goes on with {len(self._fleet.numbers)} engine(s) until the cluster has a place for "
                f"a new one ({words})"
            )

    def _start_missing(self) -> None:
        """Starts the engines that are missing and have a place; ends those that lose their place while they load."""
        self._checked_at = self._clock()
        missing = set(range(self._rollout.num_engines)) - self._fleet.numbers
        placed = set(self._places.placed()) if missing else set()
        for engine in sorted(self._loading.keys() - placed):
            self._places.end(engine, self._loading.pop(engine).handle)
        for engine in sorted((missing & placed) - self._loading.keys()):
            handle = self._places.start(engine)
            patience = iter(Patience(self._cluster.start_timeout_s))
            self._loading[engine] = _Loading(handle=handle, room=handle.room.remote(), patience=patience)

    def _take_in_loaded(self) -> None:
        """Adds the engines that are up to the fleet, for the next publish; starts those again that failed to load."""
        answers = await_answers({engine: each.room for engine, each in self._loading.items()}, timeout_s=0.0)
        for engine, room in answers.results.items():
            self._fleet.add(engine, self._loading.pop(engine).handle)
            self._fleet.set_rooms({engine: room})
            lost_at = self._lost_at.pop(engine, None)
            back = "joins" if lost_at is None else f"is back after {duration(self._clock() - lost_at)}"
            self._faults.tell(f"engine {engine} {back}; it takes prompts once it has the weights")
        limit_s = self._cluster.start_timeout_s
        failed = {engine: as_death(error) for engine, error in answers.failures.items()}
        for engine in answers.silent:
            if next(self._loading[engine].patience, None) is None:
                failed[engine] = PeerStuck(f"did not load within cluster.start_timeout_s={limit_s:g} s")
        for engine, error in failed.items():
            self._places.end(engine, self._loading.pop(engine).handle)
            self._begin_again(engine, error)
