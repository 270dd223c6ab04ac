"""Benchmark of the driver alone: fleet, batches and packing, with engines that answer at once and no graders.

In: numbers of simulated engines. Out: completions a second through RolloutFleet, GroupStream, buffer, to_train_batch
and pack_minibatch. Ray's object store, through which groups travel, is real; engines and learner are simulated.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from types import SimpleNamespace
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


class _Engine:
    """A simulated engine that has sampled every prompt when it is asked for groups.

    Groups are in the object store before the clock starts, because real engines put theirs there. A chunk's reference
    is simulated too: its answer has arrived.
    """

    def __init__(self, sampled: Sequence[tuple[Any, GroupSummary]]) -> None:
        """sampled: references and summaries of groups, by position in the stream."""
        self._sampled = sampled
        self._inside: list[GroupRequest] = []
        self._num_entered = 0
        self.start, self.collect = _method(self._start), _method(self._collect)

    def _start(self, requests: list[GroupRequest], *, holds_back: bool) -> None:
        self._inside += requests
        self._num_entered += len(requests)

    def _collect(self, limit: int, *, holds_back: bool) -> list[Any]:
        done, self._inside = self._inside[:limit], self._inside[limit:]
        groups = [self._sampled[request.prompt.position] for request in done]
        chunk: Future[GroupChunk] = Future()
        chunk.set_result(
            GroupChunk(
                finished=tuple(
                    FinishedRequest(ticket=request.ticket, summary=summary)
                    for request, (_, summary) in zip(done, groups, strict=True)
                ),
                load=EngineLoad(num_running=len(self._inside) * COMPLETIONS, num_waiting=0, kv_usage=0.0),
                num_entered=self._num_entered,
            )
        )
        return [SimpleNamespace(future=lambda: chunk), *(group_ref for group_ref, _ in groups)]


def _method(function: Any) -> Any:
    """A simulated method of an actor: `engine.name.remote(...)`, also with `.options(...)`."""
    method = SimpleNamespace(remote=function)
    method.options = lambda **_: method
    return method


def benchmark_control_plane(*, repeats: int) -> dict[int, list[float]]:
    """Completions/s of each of `repeats` iterations after a warm-up, by number of engines."""
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        return {number: _measure(number, repeats=repeats) for number in NUMBERS_OF_ENGINES}
    finally:
        ray.shutdown()


def _measure(num_engines: int, *, repeats: int) -> list[float]:
    iterations = WARMUP_ITERATIONS + repeats
    sampled = [_sample(position) for position in range(iterations * PROMPTS)]
    answers = [RewardComponent(name="answer", value=float(place % 2), weight=1.0) for place in range(COMPLETIONS)]
    verdicts = tuple(RewardVerdict(components=(answer,)) for answer in answers)
    graded: Future[GroupVerdicts] = Future()  # the same for every group
    graded.set_result(GroupVerdicts(verdicts=verdicts, timed_out=0))
    pool = EnginePool({engine: _Engine(sampled) for engine in range(num_engines)})
    pool.set_rooms(dict.fromkeys(range(num_engines), EngineRoom(num_sequences=256, kv_tokens=10**6)))
    fleet = RolloutFleet(pool, workers_per_engine=1, timeout_s=60.0, grade=lambda _: graded)
    prompts: Any = SimpleNamespace(prompt_at=_prompt_at)
    groups: Any = GroupStream(
        fleet,
        prompts,
        SamplingSpec(num_completions=COMPLETIONS, max_new_tokens=TOKENS, temperature=1.0, seed=0),
        admission=Admission(prompts_per_iteration=PROMPTS, max_staleness=0),
        buffer=GroupBuffer[ArrivedGroup](PROMPTS),
        resampling=None,
        scoring=None,
        start_iteration=0,
        start_positions=FRESH,
        num_iterations=iterations,
        counts_failures=False,
    )
    rates = []
    for iteration in range(iterations):
        started = time.perf_counter()
        _iterate(groups, iteration)
        rates.append(PROMPTS * COMPLETIONS / (time.perf_counter() - started))
    fleet._pool.stop()
    return rates[WARMUP_ITERATIONS:]


def _iterate(groups: GroupStream, iteration: int) -> None:
    """The work of the driver and of a rank's packing in one iteration."""
    groups.admit(iteration)
    batch = to_train_batch(
        groups.take(iteration), policy_version=iteration, objective=ObjectiveConfig(), max_new_tokens=TOKENS
    )
    sizes: Any = {"max_new_tokens": TOKENS, "max_tokens": MAX_TOKENS, "num_ranks": NUM_RANKS}
    for indices in split_minibatches(len(batch.samples), NUM_MINIBATCHES, seed=0, iteration=iteration, epoch=0):
        pack_minibatch(batch, indices, aggregation="sequence_mean", **sizes)


def _sample(position: int) -> tuple[Any, GroupSummary]:
    prompt = _prompt_at(position)
    completions = []
    for _ in range(COMPLETIONS):  # arrays of their own, which travel as such
        tokens = SampledTokens.one_turn(
            prompt.token_ids,
            np.full(TOKENS, 9, dtype=np.int32),
            rollout_logprobs=np.zeros(TOKENS, dtype=np.float32),
            version_starts=(VersionStart(version=0, start=0),),
        )
        completions.append(Completion(tokens=tokens, text="x" * TOKENS, finished=True))
    group = PromptGroup(prompt=prompt, completions=tuple(completions), engine_index=0, generate_s=0.0)
    return ray.put(group), GroupSummary.of(group)


def _prompt_at(position: int) -> Prompt:
    token_ids = np.full(PROMPT_TOKENS, 7, dtype=np.int32)
    return Prompt(position=position, token_ids=token_ids, text="", reference_answer="", source="simulated")
