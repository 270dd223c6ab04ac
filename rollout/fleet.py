"""RolloutFleet: several RolloutEngine actors behind one door.

Prompts go to the engine with the fewest unfinished completions; finished groups come back in completion order, as one
Ray object each. Placement is the caller's: the fleet is given running actors, and does not know of clusters.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from actors.answers import await_answers, reason
from rollout.contract import GroupSummary, Prompt, SamplingSpec
from transfer.communicator import Rendezvous
from transfer.wire import ParameterGroup


class EngineError(RuntimeError):
    """An engine failed or did not answer; the message names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedGroup:
    """A group whose completions are all there. The group itself stays in Ray's object store."""

    group_ref: Any  # ObjectRef of a PromptGroup
    summary: GroupSummary


class RolloutFleet:
    """Spreads prompts over engines. `engines` are RolloutEngine actor handles, in rank order of the broadcast group."""

    def __init__(self, engines: Sequence[Any], *, workers_per_engine: int, timeout_s: float) -> None:
        self.engines = list(engines)
        self.workers_per_engine = workers_per_engine
        self._timeout_s = timeout_s
        self._load = [0] * len(self.engines)  # unfinished completions
        self._in_flight: dict[Any, tuple[Any, int, int]] = {}  # summary ref -> group ref, engine, completions

    def await_ready(self, *, timeout_s: float) -> None:
        """Waits until every engine is up; EngineError names the one that failed to start or is silent."""
        self.call("ready", timeout_s=timeout_s)

    def sibling(self) -> "RolloutFleet":
        """A fleet on the same engines with groups in flight of its own."""
        return RolloutFleet(self.engines, workers_per_engine=self.workers_per_engine, timeout_s=self._timeout_s)

    def submit(self, prompt: Prompt, sampling: SamplingSpec) -> None:
        """Hands a prompt to the least loaded engine; returns at once."""
        index = min(range(len(self.engines)), key=lambda engine: (self._load[engine], engine))
        group_ref, summary_ref = self.engines[index].generate.options(num_returns=2).remote(prompt, sampling)
        self._load[index] += sampling.num_completions
        self._in_flight[summary_ref] = (group_ref, index, sampling.num_completions)

    @property
    def num_in_flight(self) -> int:
        return len(self._in_flight)

    def await_finished(self) -> list[FinishedGroup]:
        """The groups that have finished, at least one.

        Waits for any engine to finish any group; EngineError names the engine that failed, or those that kept silent.
        """
        done, _ = ray.wait(list(self._in_flight), num_returns=1, timeout=self._timeout_s, fetch_local=False)
        if not done:
            silent = sorted({engine for _, engine, _ in self._in_flight.values()})
            limit = f"rollout.timeout_s={self._timeout_s:g} s"
            raise EngineError(f"no group finished within {limit}; engines at work: {silent}")
        return self.finished()

    def finished(self) -> list[FinishedGroup]:
        """The groups that have finished by now, in completion order as far as Ray tells; waits for nothing."""
        if not self._in_flight:
            return []
        done, _ = ray.wait(list(self._in_flight), num_returns=len(self._in_flight), timeout=0, fetch_local=False)
        return [self._collect(ref) for ref in done]

    def _collect(self, summary_ref: Any) -> FinishedGroup:
        group_ref, index, num_completions = self._in_flight.pop(summary_ref)
        self._load[index] -= num_completions
        try:
            summary = ray.get(summary_ref, timeout=self._timeout_s)
        except ray.exceptions.GetTimeoutError:
            raise _silence([index], self._timeout_s) from None
        except ray.exceptions.RayError as error:
            raise _failure(index, error) from error
        return FinishedGroup(group_ref=group_ref, summary=summary)

    def start_receive(self, version: int, groups: list[ParameterGroup], *, verify: bool) -> list[Any]:
        """Tells every engine that a publish comes; the refs of their EngineReceipts, in engine order."""
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
        refs = [engine.shutdown.remote() for engine in self.engines]
        ray.wait(refs, num_returns=len(refs), timeout=timeout_s)
        for engine in self.engines:
            ray.kill(engine)


def _failure(index: int, error: ray.exceptions.RayError) -> EngineError:
    return EngineError(f"engine {index} failed: {reason(error)}")


def _silence(indices: Sequence[int], timeout_s: float) -> EngineError:
    named = ", ".join(str(index) for index in indices)
    return EngineError(f"engine {named} did not answer within {timeout_s:g} s")
