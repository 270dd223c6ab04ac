"""RolloutFleet: several RolloutEngine actors behind one interface.

Prompts wait here until an engine has room for them, the longest first; finished groups come back in completion order,
as one Ray object each. Placement is the caller's: the fleet is given running actors, and does not know of clusters. Its
engines may change while prompts are in flight: add() and remove().
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from rollout.contract import EngineHealth, EngineRoom, Prompt, SamplingSpec
from rollout.fleets.engine_pool import EnginePool, FinishedGroup, Mailbox
from transfer.answers import PeerStuck, as_death, await_answers, is_death, reason
from transfer.patience import Patience
from transfer.transport import Rendezvous
from transfer.wire import ParameterGroup

__all__ = ["EngineError", "EngineLost", "FinishedGroup", "RolloutFleet"]


class EngineError(RuntimeError):
    """An engine failed or did not answer; the message names it."""


class EngineLost(EngineError):
    """Engines died or are stuck; another process can take the place of each."""

    def __init__(self, causes: Mapping[int, RayError]) -> None:
        self.causes = dict(causes)  # errors by engine
        super().__init__("; ".join(f"engine {engine} failed: {reason(error)}" for engine, error in causes.items()))


class RolloutFleet:
    """Spreads prompts over the engines of a pool, with groups in flight of its own; several fleets may share a pool."""

    def __init__(
        self,
        pool: EnginePool,
        *,
        workers_per_engine: int,
        timeout_s: float,
        grade: Callable[[Any], Any] | None = None,
    ) -> None:
        """grade: takes the reference of every group the moment it has finished, in a thread of the pool's, and
        returns the future of its verdicts at once (GraderPool.grade). None where the caller grades, or no one.
        """
        self.workers_per_engine = workers_per_engine
        self._timeout_s = timeout_s
        self._pool = pool
        self._mailbox = Mailbox(grade=grade)
        self._waited_s = 0.0  # seconds waited since the last group came
        self._num_removed = 0  # engines that had been taken out by then

    @property
    def engines(self) -> list[Any]:
        """RolloutEngine actor handles, in rank order of the publishes' transport."""
        return list(self._pool.engines.values())

    @property
    def numbers(self) -> set[int]:
        """Numbers of the engines."""
        return set(self._pool.engines)

    @property
    def is_open(self) -> bool:
        """Whether any engine takes prompts: it has weights, or a publish is on the way to it."""
        return self._pool.is_open

    @property
    def has_newcomers(self) -> bool:
        """Whether an engine takes no prompts yet, since it waits for weights."""
        return self._pool.has_newcomers

    def add(self, engine: int, handle: Any) -> None:
        """Adds an engine under a free number; it gets weights and prompts from the next publish on.

        set_rooms() tells its capacity. A failed engine's successor takes its number once remove() has freed it.
        """
        self._pool.add(engine, handle)

    def remove(self, engine: int) -> Any:
        """Takes an engine out, dead or alive: what it had not finished is sampled by others, its failure is forgotten.

        Returns its handle, which is the caller's to end. The next publish goes without it.
        """
        self._pool.heartbeats.forget(engine)
        return self._pool.remove(engine)

    def forget_submitted(self) -> None:
        """Drops the prompts of every fleet of the pool; what engines still make of them counts for nothing."""
        self._pool.forget_submitted()

    def tend_with(self, tend: Callable[[], object]) -> None:
        """Lets every wait for groups call `tend` again and again: it may remove engines and add others."""
        self._pool.tend = tend

    def await_ready(self, *, timeout_s: float) -> None:
        """Waits until every engine is up; EngineError names the one that failed to start or is silent."""
        self.set_rooms(self.call("room", timeout_s=timeout_s))

    def set_rooms(self, rooms: Mapping[int, EngineRoom]) -> None:
        """Takes the capacity of engines that are up, and watches from now on whether they are well."""
        self._pool.set_rooms(rooms)
        for engine in rooms:
            self._pool.heartbeats.watch(engine, self._pool.engines[engine].health.remote, _progress)

    def lost(self) -> dict[int, RayActorError]:
        """Engines that died or are stuck, as far as is known by now; other processes can take their places."""
        with self._pool.arrived:
            failures = dict(self._pool.failures)
        # An exception may be the request's own, as that of a prompt that is too long, or the end of vLLM.
        doubtful = self.unwell([engine for engine, error in failures.items() if not is_death(error)])
        return self._pool.heartbeats.lost() | {
            engine: as_death(error) for engine, error in failures.items() if is_death(error) or engine in doubtful
        }

    def unwell(self, engines: Collection[int], *, for_publish: bool = False) -> dict[int, RayActorError]:
        """Asks these engines whether they are well, and waits: those that fail or do not answer.

        for_publish: those too that a broken publish has left with a part of the weights.
        """
        calls = {engine: self._pool.engines[engine].health.remote() for engine in engines}
        limit_s = min(self._pool.heartbeats.timeout_s, self._timeout_s)
        answers = await_answers(calls, timeout_s=limit_s)
        lost = answers.unwell(timeout_s=limit_s)
        if for_publish and not answers.failures:
            mixed = (engine for engine, health in answers.results.items() if health.has_mixed_weights)
            lost |= {engine: PeerStuck("was left with a part of the weights") for engine in mixed}
        return lost

    def sibling(self, *, grade: Callable[[Any], Any] | None = None) -> "RolloutFleet":
        """A fleet on the same engines, sharing their room, with groups in flight and a `grade` of its own."""
        return RolloutFleet(
            self._pool, workers_per_engine=self.workers_per_engine, timeout_s=self._timeout_s, grade=grade
        )

    def submit(self, prompt: Prompt, sampling: SamplingSpec, *, due: int = 0) -> None:
        """Hands a prompt to the engine with the least work as soon as one has room; returns at once.

        Prompts of a lower `due` go before those of a higher one, and within one the longest expected first.
        """
        self._pool.submit(prompt, sampling, self._mailbox, due=due)

    @property
    def num_in_flight(self) -> int:
        """Groups that were submitted and not given out."""
        with self._pool.arrived:
            return self._mailbox.num_in_flight + len(self._mailbox.groups)

    def await_finished(self, *, at_most_s: float = math.inf) -> list[FinishedGroup]:
        """The groups that have finished: at least one, unless at_most_s go by first.

        Waits for any engine to finish any group; EngineError names the engine that failed, or those that kept silent.
        Engines that are lost are left to tend(), where there is one. An error of `grade` is raised as it is.
        """
        assert self.num_in_flight, "nothing was submitted that could finish"
        self._pool.hand_over()
        self._tend()
        if self._num_removed != self._pool.num_removed:
            self._num_removed, self._waited_s = self._pool.num_removed, 0.0  # prompts have begun again
        left_s = self._timeout_s - self._waited_s
        for slice_s in Patience(min(left_s, at_most_s)):
            with self._pool.arrived:
                self._pool.arrived.wait_for(self._has_news, timeout=slice_s)
            if groups := self._taken():
                self._waited_s = 0.0
                return groups
            self._tend()
            self._raise_failures()
            if self._num_removed != self._pool.num_removed:
                return self.await_finished(at_most_s=at_most_s)
        if left_s <= at_most_s:
            limit = f"rollout.timeout_s={self._timeout_s:g} s"
            raise EngineError(f"no group finished within {limit}; engines at work: {self._pool.at_work()}")
        self._waited_s += at_most_s
        return []

    def _taken(self) -> list[FinishedGroup]:
        with self._pool.arrived:
            if self._mailbox.error is not None:
                raise self._mailbox.error
            groups = list(self._mailbox.groups)
            self._mailbox.groups.clear()
        return groups

    def _tend(self) -> None:
        if self._pool.tend is not None:
            self._pool.tend()

    def _raise_failures(self) -> None:
        lost = self.lost()
        if lost and self._pool.tend is None:
            raise EngineLost(lost)
        with self._pool.arrived:
            for engine, error in self._pool.failures.items():
                if engine not in lost:  # else the next tend() sees to it
                    raise EngineError(f"engine {engine} failed: {reason(error)}") from error
            if not self._pool.is_serving:
                raise EngineError("the thread that talks to the engines has ended; its error is in the run's log")

    def _has_news(self) -> bool:
        mailbox = self._mailbox
        return bool(mailbox.groups or mailbox.error or self._pool.failures or not self._pool.is_serving)

    def start_receive(self, version: int, groups: list[ParameterGroup], *, verify: bool) -> dict[int, Any]:
        """Announces a publish to every engine; returns references to their EngineReceipts by engine."""
        self._pool.hand_over()  # what was submitted before starts before
        groups_ref = ray.put(groups)
        receiving = {
            engine: handle.receive.remote(version, groups_ref, verify=verify)
            for engine, handle in self._pool.engines.items()
        }
        self._pool.open_added()  # a prompt that reaches an engine behind this call waits there for the weights
        return receiving

    def start_connect(self, rendezvous: Rendezvous) -> dict[int, Any]:
        """Sends every engine the rendezvous; the engine in place i takes ranks from 1 + i * workers_per_engine."""
        return {
            engine: handle.connect.remote(rendezvous, 1 + place * self.workers_per_engine)
            for place, (engine, handle) in enumerate(self._pool.engines.items())
        }

    def serve_loaded_weights(self) -> None:
        """Lets every engine serve the weights of the model's folder, and take prompts; EngineError as of call()."""
        self.call("serve_loaded_weights", timeout_s=self._timeout_s)
        self._pool.open_added()

    @property
    def num_workers(self) -> int:
        return len(self.engines) * self.workers_per_engine

    def call(self, method: str, *args: Any, timeout_s: float) -> dict[int, Any]:
        """Calls method on every engine: results by engine. EngineError names the engine that failed or is silent."""
        self._pool.hand_over()
        calls = {engine: getattr(handle, method).remote(*args) for engine, handle in self._pool.engines.items()}
        answers = await_answers(calls, timeout_s=timeout_s, lost=self.lost)
        if len(answers.results) == len(calls):
            return answers.results
        silent = {engine: PeerStuck(f"did not answer within {timeout_s:g} s") for engine in answers.silent}
        lost = answers.dead or (self.unwell(answers.failures) if answers.failures else silent)
        if lost:
            raise EngineLost(lost)
        engine, error = next(iter(answers.failures.items()))
        raise EngineError(f"engine {engine} failed: {reason(error)}") from error

    def shutdown(self, *, timeout_s: float = 10.0) -> None:
        """Asks every engine to end its processes, then ends the actors."""
        self._pool.stop()
        if refs := [handle.shutdown.remote() for handle in self.engines]:
            ray.wait(refs, num_returns=len(refs), timeout=timeout_s)
        for handle in self.engines:
            ray.kill(handle)


def _progress(health: EngineHealth) -> int | None:
    return health.progress
