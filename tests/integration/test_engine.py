"""One RolloutEngine on real vLLM: what a request that fails does to it and to the others."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from configs.schema import ModelConfig, RolloutConfig
from rollout.contract import Prompt, SamplingSpec
from rollout.engine import RolloutEngine

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import the tests

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SAMPLING = SamplingSpec(num_completions=2, max_new_tokens=8, temperature=1.0, seed=0)
MAX_MODEL_LEN = 64


class TestableEngine(RolloutEngine):
    """An engine that need not be published to, and whose vLLM can be made to fail."""

    __test__ = False

    async def pretend_published(self) -> None:
        self._version = 0

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
