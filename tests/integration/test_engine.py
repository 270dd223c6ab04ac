"""RolloutEngine on real vLLM: what a request that fails does to the others, what a group shares, and how it is fed."""

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from sampled import versions

from configs.schema import ModelConfig, RolloutConfig
from rollout.contract import EngineReceipt, Prompt, PromptGroup, SamplingSpec, VersionStart
from rollout.engines.engine import RolloutEngine
from rollout.fleets.engine_pool import EnginePool
from rollout.fleets.fleet import EngineError, EngineLost, RolloutFleet

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import the tests

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SAMPLING = SamplingSpec(num_completions=2, max_new_tokens=8, temperature=1.0, seed=0)
BLOCK_TOKENS = 128  # of vLLM's key/value cache on a CPU; only whole blocks are shared
MAX_MODEL_LEN = 2 * BLOCK_TOKENS
MAX_NUM_SEQS = 16


class TestableEngine(RolloutEngine):
    """An engine that need not be published to, and whose vLLM can be made to fail."""

    __test__ = False

    async def pretend_published(self) -> None:
        await self.serve_loaded_weights()

    async def hold(self) -> None:
        """Stops at the first step from now on that leaves a completion under way, until receive_nothing goes on."""
        self._is_held, self._goes_on = threading.Event(), threading.Event()
        note = self._llm._after_step

        def stop(load: Any) -> None:
            note(load)
            if any(state.detokenizer.num_output_tokens() for state in self._states()):
                self._llm._after_step = note
                self._is_held.set()
                self._goes_on.wait()

        self._llm._after_step = stop

    async def receive_nothing(self, version: int, *, inflight: bool) -> EngineReceipt:
        """A publish without bytes, once the engine is held."""

        async def nothing(method: str, **_: Any) -> list[dict[str, str]]:
            await asyncio.sleep(0.0 if method == "publish_digests" else 0.05)
            return [{}]

        self._publishes_inflight = inflight
        self._llm.collective_rpc = nothing
        await asyncio.to_thread(self._is_held.wait)
        receiving = asyncio.create_task(self.receive(version, [], verify=False))
        await asyncio.sleep(0)  # now the pause waits for the end of the step
        self._goes_on.set()
        return await receiving

    def _states(self) -> list[Any]:
        return list(self._llm._engine.output_processor.request_states.values())

    async def freeze(self) -> None:
        await self._llm.pause()

    async def pretend_version(self, version: int) -> None:
        await self._set_version(version)

    async def num_cached_tokens(self, prompt: Prompt, sampling: SamplingSpec) -> list[int]:
        """Prompt tokens that each completion of the group found in the cache, by vLLM's account, in rising order."""
        found = []
        processor = self._llm._engine.output_processor
        process = processor.process_outputs

        def watched(outputs: list[Any], *arguments: Any, **more: Any) -> Any:
            found.extend(output.prefill_stats.num_cached_tokens for output in outputs if output.prefill_stats)
            return process(outputs, *arguments, **more)

        processor.process_outputs = watched
        await self.generate(prompt, sampling)
        processor.process_outputs = process
        return sorted(found)

    async def watch_steps(self) -> None:
        self.seen: list[tuple[int, int]] = []
        note = self._llm._after_step

        def watch(load: Any) -> None:
            self.seen.append((load.num_running, load.num_waiting))
            note(load)

        self._llm._after_step = watch

    async def steps_seen(self) -> list[tuple[int, int]]:
        return self.seen

    async def break_next_step(self) -> None:
        """The step fails with one more request queued behind it."""
        loop = asyncio.get_running_loop()

        def fail() -> None:
            self._late = asyncio.run_coroutine_threadsafe(self.generate(prompt_of(5), SAMPLING), loop)
            while self._llm._thread._work_queue.empty():
                time.sleep(0.001)
            raise ArithmeticError("step failed on purpose")

        self._llm._engine.step = fail

    async def late_request(self) -> None:
        await asyncio.wrap_future(self._late)


class EngineStarter:
    """The engine that tests use one after another, until one of them spoils it."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._engine: Any = None

    def engine(self) -> Any:
        """The living engine, started where there is none."""
        if self._engine is None:
            # The tiny model was made for 128 tokens.
            variables = {"OMP_NUM_THREADS": "1", "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}
            actor = ray.remote(TestableEngine).options(runtime_env={"env_vars": variables}, max_concurrency=100)
            self._engine = actor.remote(
                0,
                model=ModelConfig(path=str(self._model), max_model_len=MAX_MODEL_LEN),
                model_path=str(self._model),
                rollout=RolloutConfig(enforce_eager=True, max_num_seqs=MAX_NUM_SEQS),
                device="cpu",
                dtype="float32",
                publishes_inflight=True,
            )
        return self._engine

    def end(self) -> None:
        """Kills the engine, so that the next test gets a new one."""
        if self._engine is not None:
            ray.kill(self._engine)
            self._engine = None


@pytest.fixture(scope="module")
def starter(tied_model: Path, shared_ray: None) -> Iterator[EngineStarter]:
    starting = EngineStarter(tied_model)
    yield starting
    starting.end()


@pytest.fixture
def engine(starter: EngineStarter) -> Any:
    """An engine that serves version 0."""
    engine = starter.engine()
    ray.get(engine.pretend_published.remote())
    return engine


@pytest.fixture
def new_engine(starter: EngineStarter) -> Any:
    """An engine that nothing was asked of and nothing published to."""
    starter.end()
    return starter.engine()


@pytest.fixture
def spoils_the_engine(starter: EngineStarter) -> Iterator[None]:
    yield
    starter.end()


def prompt_of(length: int, *, index: int = 0) -> Prompt:
    return Prompt(position=index, token_ids=np.full(length, 5, dtype=np.int32), text="", reference_answer="", source="")


def starts_of(group: PromptGroup) -> set[tuple[VersionStart, ...]]:
    return {completion.tokens.version_starts for completion in group.completions}


def drain(fleet: RolloutFleet) -> dict[int, PromptGroup]:
    """All groups in flight, by prompt index."""
    groups = {}
    while fleet.num_in_flight:
        for finished in fleet.await_finished():
            groups[finished.summary.position] = ray.get(finished.group_ref)
    return groups


@pytest.mark.usefixtures("spoils_the_engine")
def test_a_failed_request_is_its_own_and_a_failed_step_is_everybodys(new_engine: Any) -> None:
    early = new_engine.generate.remote(prompt_of(4), SAMPLING)
    assert not ray.wait([early], timeout=0.1)[0], "nothing is sampled before the first publish"
    ray.get(new_engine.pretend_published.remote())
    ray.get(early)
    with pytest.raises(ray.exceptions.RayTaskError, match=f"maximum context length is {MAX_MODEL_LEN} tokens"):
        ray.get(new_engine.generate.remote(prompt_of(MAX_MODEL_LEN + 1), SAMPLING))
    group, summary = ray.get(new_engine.generate.remote(prompt_of(4), SAMPLING))
    assert len(group.completions) == 2
    assert summary.num_tokens == sum(completion.tokens.num_sampled for completion in group.completions) > 0

    ray.get(new_engine.break_next_step.remote())
    waiting = [new_engine.generate.remote(prompt_of(4, index=index), SAMPLING) for index in range(3)]
    for answer in waiting:
        with pytest.raises((ArithmeticError, RuntimeError), match=r"step failed on purpose|has failed before"):
            ray.get(answer, timeout=240)
    for answer in (new_engine.late_request.remote(), new_engine.generate.remote(prompt_of(4), SAMPLING)):
        with pytest.raises(RuntimeError, match="has failed before"):
            ray.get(answer, timeout=240)


def test_a_fleet_keeps_a_small_engine_full_and_changes_no_bit(new_engine: Any) -> None:
    """16 places for 80 completions: they are fed as places come free, and sampled as they are one by one."""
    fleet = RolloutFleet(EnginePool({0: new_engine}), workers_per_engine=1, timeout_s=240.0)
    fleet.await_ready(timeout_s=240.0)
    fleet.call("pretend_published", timeout_s=240.0)
    fleet.call("watch_steps", timeout_s=240.0)
    prompts = [prompt_of(4 + index % 3, index=index) for index in range(40)]
    for prompt in prompts:
        fleet.submit(prompt, SAMPLING)
    groups = drain(fleet)
    assert sorted(groups) == list(range(40))

    steps = ray.get(new_engine.steps_seen.remote())
    assert max(running + waiting for running, waiting in steps) <= MAX_NUM_SEQS + 2, (
        "the backlog is an eighth, or one group"
    )
    assert max(running for running, _ in steps) == MAX_NUM_SEQS
    for prompt in prompts[::7]:
        alone, _ = ray.get(new_engine.generate.remote(prompt, SAMPLING))
        for fed, one in zip(groups[prompt.position].completions, alone.completions, strict=True):
            np.testing.assert_array_equal(fed.tokens.token_ids, one.tokens.token_ids)
            np.testing.assert_array_equal(fed.tokens.rollout_logprobs, one.tokens.rollout_logprobs)

    fleet.submit(prompt_of(MAX_MODEL_LEN + 1), SAMPLING)
    with pytest.raises(EngineError, match=f"engine 0 failed: .* maximum context length is {MAX_MODEL_LEN} tokens"):
        fleet.await_finished()


def test_a_completion_tells_which_version_made_which_tokens(engine: Any) -> None:
    sampling = SamplingSpec(num_completions=8, max_new_tokens=56, temperature=1.0, seed=1)
    undisturbed, _ = ray.get(engine.generate.remote(prompt_of(4), sampling))
    assert starts_of(undisturbed) == {versions((0, 0))}

    ray.get(engine.hold.remote())
    frozen = engine.generate.remote(prompt_of(4), sampling)
    receipt = ray.get(engine.receive_nothing.remote(1, inflight=True))
    group, _ = ray.get(frozen)
    assert 0.15 <= receipt.paused_s < 60
    assert {completion.tokens.min_policy_version for completion in group.completions} == {0}
    assert max(completion.tokens.max_policy_version for completion in group.completions) == 1
    continued = [completion.tokens for completion in group.completions if completion.tokens.max_policy_version == 1]
    assert continued
    assert {tokens.version_starts for tokens in continued} == {(*versions((0, 0)), continued[0].version_starts[1])}
    assert all(0 < tokens.tokens_by_version()[0] < tokens.num_sampled for tokens in continued)
    for completion, expected in zip(group.completions, undisturbed.completions, strict=True):
        # The weights are the same.
        np.testing.assert_array_equal(completion.tokens.token_ids, expected.tokens.token_ids)

    ray.get(engine.hold.remote())
    before = engine.generate.remote(prompt_of(4), sampling)
    publish = engine.receive_nothing.remote(2, inflight=False)
    after = engine.generate.remote(prompt_of(5), sampling)
    receipt, (finished, _), (waited, _) = ray.get([publish, before, after])
    assert receipt.paused_s < 60
    assert starts_of(finished) == {versions((1, 0))}, "nothing was frozen"
    # What came while the engine was still on its way to the publish belongs to the old version, all else to the new.
    assert starts_of(waited) <= {versions((1, 0)), versions((2, 0))}
    newest, _ = ray.get(engine.generate.remote(prompt_of(6), sampling))
    assert {completion.tokens.min_policy_version for completion in newest.completions} == {2}


def test_a_group_computes_its_prompt_once_and_older_weights_share_nothing(engine: Any) -> None:
    alone = SamplingSpec(num_completions=1, max_new_tokens=4, temperature=1.0, seed=0)
    long_prompt = prompt_of(BLOCK_TOKENS + 30)
    cached = [ray.get(engine.num_cached_tokens.remote(long_prompt, sampling)) for sampling in (alone, alone)]
    assert cached == [[0], [BLOCK_TOKENS]]
    for version in (1, 2):
        ray.get(engine.pretend_version.remote(version))
        assert ray.get(engine.num_cached_tokens.remote(long_prompt, SAMPLING)) == [0, BLOCK_TOKENS]
    ray.get(engine.pretend_version.remote(3))
    assert ray.get(engine.num_cached_tokens.remote(long_prompt, alone)) == [0]


@pytest.mark.usefixtures("spoils_the_engine")
def test_a_fleet_names_an_engine_that_was_killed(engine: Any) -> None:
    fleet = RolloutFleet(EnginePool({0: engine}), workers_per_engine=1, timeout_s=240.0)
    fleet.await_ready(timeout_s=240.0)
    ray.get(engine.freeze.remote())  # none of them ends before the engine does
    for index in range(20):
        fleet.submit(prompt_of(4, index=index), SAMPLING)
    ray.kill(engine)
    with pytest.raises(EngineLost, match=r"engine 0 failed: its process( \d+)? was ended by ray.kill"):
        drain(fleet)
