"""Benchmark of the driver alone: fleet, batches and packing, with engines that answer at once and no graders.

In: numbers of simulated engines. Out: completions a second through RolloutFleet, GroupStream, buffer, to_train_batch
and pack_minibatch. Ray's object store, through which groups travel, is real; engines and learner are simulated.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import ray

from configs.objective import ObjectiveConfig
from learner.batches.packing import pack_minibatch, split_minibatches
from orchestration.stream.batches import to_train_batch
from orchestration.stream.group_stream import ArrivedGroup, GroupStream
from orchestration.stream.order import Admission
from orchestration.stream.positions import FRESH
from orchestration.stream.prompt_order import GroupBuffer
from rollout.contract import (
    Completion,
    EngineLoad,
    EngineRoom,
    FinishedRequest,
    GroupChunk,
    GroupRequest,
    GroupSummary,
    GroupVerdicts,
    Prompt,
    PromptGroup,
    RewardComponent,
    RewardVerdict,
    SampledTokens,
    SamplingSpec,
    VersionStart,
)
from rollout.fleets.engine_pool import EnginePool
from rollout.fleets.fleet import RolloutFleet

NUMBERS_OF_ENGINES = (10, 64, 256)
PROMPTS, COMPLETIONS, TOKENS, PROMPT_TOKENS = 512, 8, 64, 32  # counts of an iteration; the last two of a sequence
NUM_RANKS, NUM_MINIBATCHES, MAX_TOKENS = 8, 2, 2048
WARMUP_ITERATIONS = 2


class _Ref:
    """A simulated Ray reference whose answer has arrived."""

    def __init__(self, content: GroupChunk) -> None:
        self._future: Future[GroupChunk] = Future()
        self._future.set_result(content)

    def future(self) -> "Future[GroupChunk]":
        return self._future


class _Method:
    """A simulated method of an actor: `engine.name.remote(...)`, also with `.options(...)`."""

    def __init__(self, function: Any) -> None:
        self.remote = function

    def options(self, **_: Any) -> "_Method":
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sampled:
    """A group in the object store, put there before the clock starts, because real engines put theirs there."""

    group_ref: Any
    summary: GroupSummary


class _Engine:
    """A simulated engine that has sampled every prompt when it is asked for groups."""

    def __init__(self, sampled: Sequence[_Sampled]) -> None:
        """sampled: groups by position in the stream."""
        self._sampled = sampled
        self._inside: list[GroupRequest] = []
        self._num_entered = 0
        self.start, self.collect = _Method(self._start), _Method(self._collect)

    def _start(self, requests: list[GroupRequest], *, holds_back: bool) -> None:
        self._inside += requests
        self._num_entered += len(requests)

    def _collect(self, limit: int, *, holds_back: bool) -> list[Any]:
        done, self._inside = self._inside[:limit], self._inside[limit:]
        groups = [self._sampled[request.prompt.position] for request in done]
        chunk = GroupChunk(
            finished=tuple(
                FinishedRequest(ticket=request.ticket, summary=group.summary)
                for request, group in zip(done, groups, strict=True)
            ),
            load=EngineLoad(num_running=len(self._inside) * COMPLETIONS, num_waiting=0, kv_usage=0.0),
            num_entered=self._num_entered,
        )
        return [_Ref(chunk), *(group.group_ref for group in groups)]


class _Prompts:
    """A simulated prompt stream."""

    def prompt_at(self, position: int) -> Prompt:
        return _prompt_at(position)


class _NoGraders:
    """Simulated graders that give every group the same verdicts."""

    def __init__(self) -> None:
        answers = [RewardComponent(name="answer", value=float(place % 2), weight=1.0) for place in range(COMPLETIONS)]
        verdicts = tuple(RewardVerdict(components=(answer,)) for answer in answers)
        self._verdicts_ref = ray.put(GroupVerdicts(verdicts=verdicts, timed_out=0))

    def grade(self, group_ref: Any) -> Any:
        return self._verdicts_ref


@dataclass(frozen=True, kw_only=True, slots=True)
class DriverRate:
    """Throughput of the driver with a number of engines; one rate an iteration, completions/s."""

    num_engines: int
    rates: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.rates)


def benchmark_control_plane(*, repeats: int) -> list[DriverRate]:
    """Measures `repeats` iterations after a warm-up for each number of engines."""
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        return [_measure(number, repeats=repeats) for number in NUMBERS_OF_ENGINES]
    finally:
        ray.shutdown()


def _measure(num_engines: int, *, repeats: int) -> DriverRate:
    iterations = WARMUP_ITERATIONS + repeats
    sampled = [_sample(position) for position in range(iterations * PROMPTS)]
    pool = EnginePool([_Engine(sampled) for _ in range(num_engines)])
    pool.set_rooms(dict.fromkeys(range(num_engines), EngineRoom(num_sequences=256, kv_tokens=10**6)))
    fleet = RolloutFleet(pool, workers_per_engine=1, timeout_s=60.0, grade=_NoGraders().grade)
    groups: Any = GroupStream(
        fleet,
        _Prompts(),  # type: ignore[arg-type]
        SamplingSpec(num_completions=COMPLETIONS, max_new_tokens=TOKENS, temperature=1.0, seed=0),
        admission=Admission(prompts_per_iteration=PROMPTS, max_staleness=0),
        buffer=GroupBuffer[ArrivedGroup](PROMPTS),
        resampling=None,
        scoring=None,
        start_iteration=0,
        start_positions=FRESH,
        num_iterations=iterations,
        grading_timeout_s=60.0,
        counts_failures=False,
    )
    rates = []
    for iteration in range(iterations):
        started = time.perf_counter()
        _iterate(groups, iteration)
        rates.append(PROMPTS * COMPLETIONS / (time.perf_counter() - started))
    fleet._pool.stop()
    return DriverRate(num_engines=num_engines, rates=tuple(rates[WARMUP_ITERATIONS:]))


def _iterate(groups: GroupStream, iteration: int) -> None:
    """The work of the driver and of a rank's packing in one iteration."""
    groups.admit(iteration)
    batch = to_train_batch(
        groups.take(iteration), policy_version=iteration, objective=ObjectiveConfig(), max_new_tokens=TOKENS
    )
    num_samples = len(batch.samples)
    for indices in split_minibatches(num_samples, NUM_MINIBATCHES, seed=0, iteration=iteration, epoch=0):
        pack_minibatch(
            batch,
            indices,
            aggregation="sequence_mean",
            max_new_tokens=TOKENS,
            max_tokens=MAX_TOKENS,
            num_ranks=NUM_RANKS,
        )


def _sample(position: int) -> _Sampled:
    prompt = _prompt_at(position)
    completions = tuple(
        Completion(
            tokens=SampledTokens.one_turn(
                prompt.token_ids,
                np.full(TOKENS, 9, dtype=np.int32),
                rollout_logprobs=np.zeros(TOKENS, dtype=np.float32),
                version_starts=(VersionStart(version=0, start=0),),
            ),
            text="x" * TOKENS,
            finished=True,
        )
        for _ in range(COMPLETIONS)
    )
    group = PromptGroup(prompt=prompt, completions=completions, engine_index=0, generate_s=0.0)
    return _Sampled(group_ref=ray.put(group), summary=GroupSummary.of(group))


def _prompt_at(position: int) -> Prompt:
    token_ids = np.full(PROMPT_TOKENS, 7, dtype=np.int32)
    return Prompt(position=position, token_ids=token_ids, text="", reference_answer="", source="simulated")
