"""A long run of the driver: the real loop, stream, fleet and journal, with parts that answer at once."""

import gc
import os
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from sampled import one_turn, versions
from step_reports import step
from verdicts import verdict_of

import orchestration.stream.group_stream as module
from configs.loading import load_config
from learner.contract import StepReport, TrainBatch
from orchestration.boundary import Boundary
from orchestration.checkpoints.saver import CheckpointSaver
from orchestration.checkpoints.state import RunState
from orchestration.checkpoints.store import CheckpointStore
from orchestration.interfaces import ActorStatus
from orchestration.journal.eval_rows import Evaluation
from orchestration.journal.journal import Journal
from orchestration.loop import iterate
from orchestration.stream.group_stream import GroupStream
from orchestration.stream.order import admission_for, buffer_for
from orchestration.stream.positions import FRESH
from orchestration.terminal.stopping import Stopping
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
    SamplingSpec,
)
from rollout.fleets.engine_pool import EnginePool
from rollout.fleets.fleet import RolloutFleet
from rollout.prompts import PromptStream
from rollout.tasks import Problem
from transfer.fingerprints import Fingerprint, write_hashed
from transfer.spans import SpanLog

NUM_ITERATIONS = 2000
WARM_UP = 400  # iterations after which every window and cache is full
PROMPTS = 4
SAMPLING = SamplingSpec(num_completions=2, max_new_tokens=8, temperature=1.0, seed=0)
MOST_BYTES = 256.0  # an iteration; a dictionary that keeps one entry a prompt takes more


class Method:
    """`engine.name.remote(...)`, also behind `.options(...)`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.remote = function

    def options(self, *, num_returns: int) -> "Method":
        return self


class PromptEngine:
    """An engine's handle: answers a call for groups at once, with the oldest that it has."""

    version = 0  # of all engines

    def __init__(self) -> None:
        self.start = Method(self._start)
        self.collect = Method(self._collect)
        self._inside: deque[GroupRequest] = deque()
        self._num_started = 0

    def _start(self, requests: list[GroupRequest], *, holds_back: bool) -> None:
        self._inside += requests
        self._num_started += len(requests)

    def _collect(self, limit: int, *, holds_back: bool) -> list[Any]:
        requests = [self._inside.popleft() for _ in range(min(limit, len(self._inside)))]
        groups = [group_of(request.prompt) for request in requests]
        finished = [
            FinishedRequest(ticket=request.ticket, summary=GroupSummary.of(group))
            for request, group in zip(requests, groups, strict=True)
        ]
        load = EngineLoad(num_running=2 * len(self._inside), num_waiting=0, kv_usage=0.0)
        chunk: Future[GroupChunk] = Future()
        chunk.set_result(GroupChunk(finished=tuple(finished), load=load, num_entered=self._num_started))
        return [SimpleNamespace(future=lambda: chunk), *groups, *[None] * (limit - len(groups))]


def group_of(prompt: Prompt) -> PromptGroup:
    sampled = one_turn(prompt.token_ids, [3, 4, 5], starts=versions((PromptEngine.version, 0)))
    completion = Completion(tokens=sampled, text="<answer>1</answer>", finished=True)
    return PromptGroup(prompt=prompt, completions=(completion,) * 2, engine_index=0, generate_s=0.1)


def verdicts_of(group: PromptGroup) -> GroupVerdicts:
    return GroupVerdicts(verdicts=(verdict_of(format=1.0, answer=1.0), verdict_of(format=1.0, answer=0.0)), timed_out=0)


class LongRun:
    """The parts of the run; traces the memory that is allocated after WARM_UP and still held at the end."""

    def __init__(self) -> None:
        pool = EnginePool({0: PromptEngine(), 1: PromptEngine()})
        pool.set_rooms(dict.fromkeys(pool.engines, EngineRoom(num_sequences=4, kv_tokens=1000)))
        fleet = RolloutFleet(pool, workers_per_engine=1, timeout_s=60.0, grade=verdicts_of)
        problems = [Problem(text=f"{number}+1=", reference_answer="1", source="sums") for number in range(1_000)]
        bounds = {"prompts_per_iteration": PROMPTS, "max_staleness": 1}
        self.pool = pool
        self.groups = GroupStream(
            fleet,
            PromptStream(problems, lambda text: [1] * len(text), seed=0),
            SAMPLING,
            admission=admission_for("prompt", **bounds),
            buffer=buffer_for("prompt", **bounds),
            resampling=None,
            scoring=None,
            start_iteration=0,
            start_positions=FRESH,
            num_iterations=NUM_ITERATIONS,
            counts_failures=False,
        )
        self.channel = SimpleNamespace(publish=self._publish)
        self.learner = SimpleNamespace(load=self._load, steps=self._steps, save=self._save)
        self.learner.await_saved = self._await_saved
        self.learner.is_saving = False
        self._spans = SpanLog("learner")
        self._num_done = 0

    def evaluate(self) -> Evaluation:
        return Evaluation(metrics={"eval/sums/pass@1": 0.5, "eval/sums/length": 3.0}, samples={})

    def status(self) -> ActorStatus:
        self._num_done += 1
        if self._num_done == WARM_UP:
            gc.collect()
            tracemalloc.start()
        return ActorStatus(metrics={"memory/peak_bytes": 1.0}, spans=self._spans.drain())

    def last_spans(self) -> tuple[Any, ...]:
        return ()

    def _publish(self, version: int) -> Any:
        PromptEngine.version = version
        return SimpleNamespace(metrics=lambda: {"publish/bytes": 1.0})

    def _load(self, batch: TrainBatch, iteration: int) -> None:
        with self._spans.span("load"):
            assert len(batch.samples) == PROMPTS * 2

    def _save(self, path: str, *, pretrained: bool) -> None:
        self._saved = {"weights": write_hashed(Path(path) / "weights", [b"weights"])}

    def _await_saved(self) -> dict[str, Fingerprint]:
        return self._saved

    def _steps(self) -> Iterator[StepReport]:
        with self._spans.span("step"):
            yield step(loss=0.0, gate__eur=0.9, policy__entropy=0.5)


def test_the_memory_of_the_driver_does_not_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ray", SimpleNamespace(get=list))
    monkeypatch.setattr(module, "await_verdicts", lambda references: list(references))
    monkeypatch.setattr("os.fsync", lambda descriptor: None)  # the disk's time is not the point
    settings = [f"num_iterations={NUM_ITERATIONS}", "checkpoint.every=500", "max_staleness=1", "eval.every=10"]
    config = load_config([*settings, f"rollout.prompts_per_iteration={PROMPTS}", "rollout.completions_per_prompt=2"])
    parts = LongRun()
    state = RunState.fresh()
    with (
        open(os.devnull, "w") as nowhere,
        Stopping(grace_s=60.0) as stopping,
        Journal(
            tmp_path,
            config=config.journal,
            num_iterations=NUM_ITERATIONS,
            max_staleness=1,
            gate_name="softsign",
            console=Console(file=nowhere),
        ) as journal,
        CheckpointSaver(
            CheckpointStore(tmp_path / "checkpoints", keep_last=2), parts.learner, pretrained=False, log=journal.log
        ) as saver,
    ):
        iterate(config, parts, journal, saver, Boundary(stopping, state))
        gc.collect()
        held = tracemalloc.take_snapshot()
        tracemalloc.stop()
    parts.pool.stop()
    grown = sum(trace.size for trace in held.traces) / (NUM_ITERATIONS - WARM_UP)
    largest = "\n".join(str(one) for one in held.statistics("lineno")[:15])
    assert grown < MOST_BYTES, f"{grown:.0f} bytes an iteration; the largest:\n{largest}"
