"""One RolloutEngine on real vLLM: what a request that fails does to it and to the others."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from configs.schema import ModelConfig, RolloutConfig
from rollout.contract import EngineReceipt, Prompt, SamplingSpec
from rollout.engine import RolloutEngine

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import the tests

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SAMPLING = SamplingSpec(num_completions=2, max_new_tokens=8, temperature=1.0, seed=0)
MAX_MODEL_LEN = 64


class TestableEngine(RolloutEngine):
    """An engine that need not be published to, and whose vLLM can be made to fail."""

    __test__ = False

    async def pretend_published(self) -> None:
        await self._set_version(0)

    async def receive_nothing(self, version: int, *, inflight: bool) -> EngineReceipt:
        """A publish without bytes, once a completion is under way."""

        async def nothing(*_: Any) -> None:
            await asyncio.sleep(0.05)

        self._publishes_inflight = inflight
        for step in ("start_weight_update", "update_weights", "finish_weight_update"):
            setattr(self._llm, step, nothing)
        while not any(state.detokenizer.num_output_tokens() for state in self._states()):
            await asyncio.sleep(0.001)
        return await self.receive(version, [], verify=False)

    def _states(self) -> list[Any]:
        return list(self._llm._engine.output_processor.request_states.values())

    async def break_next_step(self) -> None:
        def fail() -> None:
            raise ArithmeticError("step failed on purpose")

        self._llm._engine.step = fail


@pytest.fixture
def engine(tied_model: Path) -> Iterator[Any]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    actor = ray.remote(TestableEngine).options(runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}}, max_concurrency=100)
    built = actor.remote(
        0,
        model=ModelConfig(path=str(tied_model), max_model_len=MAX_MODEL_LEN),
        model_path=str(tied_model),
        rollout=RolloutConfig(enforce_eager=True),
        device="cpu",
        dtype="float32",
        publishes_inflight=True,
    )
    try:
        yield built
    finally:
        ray.shutdown()


def prompt_of(length: int, *, index: int = 0) -> Prompt:
    return Prompt(index=index, token_ids=np.full(length, 5, dtype=np.int32), text="", reference_answer="", source="")


def test_a_failed_request_is_its_own_and_a_failed_step_is_everybodys(engine: Any) -> None:
    with pytest.raises(RuntimeError, match=r"engine 0: generate\(\) before the first publish"):
        ray.get(engine.generate.remote(prompt_of(4), SAMPLING))

    ray.get(engine.pretend_published.remote())
    with pytest.raises(ray.exceptions.RayTaskError, match=f"maximum context length is {MAX_MODEL_LEN} tokens"):
        ray.get(engine.generate.remote(prompt_of(MAX_MODEL_LEN + 1), SAMPLING))
    group, summary = ray.get(engine.generate.remote(prompt_of(4), SAMPLING))
    assert len(group.completions) == 2
    assert summary.num_tokens == sum(len(completion.token_ids) for completion in group.completions) > 0

    ray.get(engine.break_next_step.remote())
    waiting = [engine.generate.remote(prompt_of(4, index=index), SAMPLING) for index in range(3)]
    for answer in waiting:
        with pytest.raises((ArithmeticError, RuntimeError), match=r"step failed on purpose|has failed before"):
            ray.get(answer, timeout=60)
    with pytest.raises(RuntimeError, match="has failed before"):
        ray.get(engine.generate.remote(prompt_of(4), SAMPLING), timeout=60)


def test_a_completion_tells_which_version_made_which_tokens(engine: Any) -> None:
    ray.get(engine.pretend_published.remote())
    sampling = SamplingSpec(num_completions=8, max_new_tokens=56, temperature=1.0, seed=1)
    undisturbed, _ = ray.get(engine.generate.remote(prompt_of(4), sampling))
    assert {completion.version_starts for completion in undisturbed.completions} == {((0, 0),)}

    frozen = engine.generate.remote(prompt_of(4), sampling)
    receipt = ray.get(engine.receive_nothing.remote(1, inflight=True))
    group, summary = ray.get(frozen)
    assert 0.15 <= receipt.paused_s < 5
    assert (summary.min_policy_version, summary.max_policy_version) == (0, 1)
    continued = [completion for completion in group.completions if completion.max_policy_version == 1]
    assert continued
    assert {completion.version_starts for completion in continued} == {((0, 0), continued[0].version_starts[1])}
    assert all(0 < completion.tokens_by_version()[0] < len(completion.token_ids) for completion in continued)
    for completion, expected in zip(group.completions, undisturbed.completions, strict=True):
        np.testing.assert_array_equal(completion.token_ids, expected.token_ids)  # the weights are the same

    before = engine.generate.remote(prompt_of(4), sampling)
    publish = engine.receive_nothing.remote(2, inflight=False)
    after = engine.generate.remote(prompt_of(5), sampling)
    receipt, (finished, _), (waited, _) = ray.get([publish, before, after])
    assert receipt.paused_s < 5
    assert {completion.version_starts for completion in finished.completions} == {((1, 0),)}, "nothing was frozen"
    # What came while the engine was still on its way to the publish belongs to the old version, all else to the new.
    assert {completion.version_starts for completion in waited.completions} <= {((1, 0),), ((2, 0),)}
    assert ray.get(engine.generate.remote(prompt_of(6), sampling))[1].min_policy_version == 2
