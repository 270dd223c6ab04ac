"""RolloutFleet: several RolloutEngine actors behind one door.

Prompts wait here until an engine has room for them, the longest first; finished groups come back in completion order,
as one Ray object each. Placement is the caller's: the fleet is given running actors, and does not know of clusters.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import ray

from rollout.contract import Prompt, SamplingSpec
from rollout.fleets.engine_pool import EnginePool, FinishedGroup, Mailbox
from transfer.answers import await_answers, reason
from transfer.communicator import Rendezvous
from transfer.wire import ParameterGroup

__all__ = ["EngineError", "FinishedGroup", "RolloutFleet"]


class EngineError(RuntimeError):
    """An engine failed or did not answer; the message names it."""


class RolloutFleet:
    """Spreads prompts over engines. `engines` are RolloutEngine actor handles, in rank order of the broadcast group."""

    def __init__(self, engines: Sequence[Any], *, workers_per_engine: int, timeout_s: float) -> None:
        self.engines = list(engines)
        self.workers_per_engine = workers_per_engine
        self._timeout_s = timeout_s
        self._pool = EnginePool(self.engines)
        self._mailbox = Mailbox()
        self._waited_s = 0.0  # since something came last

    def await_ready(self, *, timeout_s: float) -> None:
        """Waits until every engine is up; EngineError names the one that failed to start or is silent."""
        self._pool.set_rooms(self.call("room", timeout_s=timeout_s))

    def sibling(self, *, grade: Callable[[Any], Any] | None = None) -> "RolloutFleet":
        """A fleet on the same engines, sharing their room, with groups in flight of its own.

        grade: is given the reference of every group the moment it has finished, in a thread of the fleet's, and returns
        that of its verdicts at once (GraderPool.grade). None where nobody grades, or the caller does.
        """
        fleet = RolloutFleet(self.engines, workers_per_engine=self.workers_per_engine, timeout_s=self._timeout_s)
        fleet._pool = self._pool
        fleet._mailbox = Mailbox(grade=grade)
        return fleet

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
        An error of `grade` is raised as it is.
        """
        assert self.num_in_flight, "nothing was submitted that could finish"
        self._pool.hand_over()
        left_s = self._timeout_s - self._waited_s
        with self._pool.arrived:
            if self._pool.arrived.wait_for(self._has_news, timeout=min(left_s, at_most_s)):
                self._waited_s = 0.0
            elif at_most_s < left_s:
                self._waited_s += at_most_s
            else:
                limit = f"rollout.timeout_s={self._timeout_s:g} s"
                raise EngineError(f"no group finished within {limit}; engines at work: {self._pool.at_work()}")
        return self.finished()

    def finished(self) -> list[FinishedGroup]:
        """The groups that have finished by now, in completion order as far as Ray tells; waits for nothing.

        EngineError names an engine that failed, once what the others finished has been given out; an error of `grade`
        is raised as it is.
        """
        self._pool.hand_over()
        with self._pool.arrived:
            if self._mailbox.error is not None:
                raise self._mailbox.error
            groups = list(self._mailbox.groups)
            self._mailbox.groups.clear()
            if groups or not self._mailbox.num_in_flight:
                return groups
            if self._pool.failures:
                index, error = next(iter(self._pool.failures.items()))
                raise _failure(index, error) from error
            if not self._pool.is_serving:
                raise EngineError("the thread that talks to the engines has ended; its error is in the run's log")
        return groups

    def _has_news(self) -> bool:
        mailbox = self._mailbox
        return bool(mailbox.groups or mailbox.error or self._pool.failures or not self._pool.is_serving)

    def start_receive(self, version: int, groups: list[ParameterGroup], *, verify: bool) -> list[Any]:
        """Tells every engine that a publish comes; the refs of their EngineReceipts, in engine order."""
        self._pool.hand_over()  # what was submitted before starts before
        groups_ref = ray.put(groups)
        return [engine.receive.remote(version, groups_ref, verify=verify) for engine in self.engines]

    def start_connect(self, rendezvous: Rendezvous) -> list[Any]:
        """Tells every engine where to meet; engine i takes ranks from 1 + i * workers_per_engine."""
        offsets = (1 + index * self.workers_per_engine for index in range(len(self.engines)))
        return [engine.connect.remote(rendezvous, offset) for engine, offset in zip(self.engines, offsets, strict=True)]

    @property
    def num_workers(self) -> int:
        return len(self.engines) * self.workers_per_engine

    def call(self, method: str, *args: Any, timeout_s: float) -> list[Any]:
        """Calls method on every engine and waits for all; EngineError names the engine that failed or is silent."""
        self._pool.hand_over()
        calls = {index: getattr(engine, method).remote(*args) for index, engine in enumerate(self.engines)}
        answers = await_answers(calls, timeout_s=timeout_s)
        if answers.failures:
            index, error = next(iter(answers.blamed.items()))
            raise _failure(index, error) from error
        if answers.silent:
            raise _silence(answers.silent, timeout_s)
        return list(answers.results.values())

    def shutdown(self, *, timeout_s: float = 10.0) -> None:
        """Asks every engine to end its processes, then ends the actors."""
        self._pool.stop()
        refs = [engine.shutdown.remote() for engine in self.engines]
        ray.wait(refs, num_returns=len(refs), timeout=timeout_s)
        for engine in self.engines:
            ray.kill(engine)


def _failure(index: int, error: ray.exceptions.RayError) -> EngineError:
    return EngineError(f"engine {index} failed: {reason(error)}")


def _silence(indices: Sequence[int], timeout_s: float) -> EngineError:
    named = ", ".join(str(index) for index in indices)
    return EngineError(f"engine {named} did not answer within {timeout_s:g} s")
