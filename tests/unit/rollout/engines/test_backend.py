"""Who implements EngineBackend, and what a RolloutEngine does with whoever does: a stand-in that records its calls."""

import ast
import asyncio
import inspect
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from configs.schema import ModelConfig, RolloutConfig
from rollout.contract import EngineLoad, EngineRoom, Prompt, SamplingSpec
from rollout.engines import backend, engine
from rollout.engines.backend import EngineBackend
from rollout.engines.engine import RolloutEngine
from rollout.engines.orphans import OWNER_VARIABLE, is_stopped
from transfer.transport import Rendezvous

ENGINES = Path(backend.__file__).parent
PROMPT = Prompt(position=0, token_ids=np.array([5, 6], dtype=np.int32), text="", reference_answer="", source="")
SAMPLING = SamplingSpec(num_completions=1, max_new_tokens=4, temperature=1.0, seed=0)


@pytest.mark.parametrize(("file", "name"), [("async_llm.py", "AsyncBackend"), ("inline_llm.py", "InlineLLM")])
def test_both_backends_declare_the_protocol_and_implement_all_of_it(file: str, name: str) -> None:
    """Read as text: importing them imports vLLM."""
    (found,) = (
        node
        for node in ast.parse((ENGINES / file).read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == name
    )
    assert "EngineBackend" in [ast.unparse(base) for base in found.bases]
    methods = {m.name: m for m in found.body if isinstance(m, ast.FunctionDef | ast.AsyncFunctionDef)}
    for member in EngineBackend.__abstractmethods__:
        declared = getattr(EngineBackend, member)
        function = declared.fget if isinstance(declared, property) else declared
        arguments = methods[member].args
        names = [a.arg for a in (*arguments.args, *arguments.kwonlyargs, arguments.kwarg) if a is not None]
        assert names == list(inspect.signature(function).parameters), member
        assert isinstance(methods[member], ast.AsyncFunctionDef) == inspect.iscoroutinefunction(function), member
        is_property = "property" in [ast.unparse(decorator) for decorator in methods[member].decorator_list]
        assert is_property == isinstance(declared, property), member


class RecordingBackend(EngineBackend):
    """Samples one token a request, once `sampled` is set."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.sampled = asyncio.Event()
        self.has_failed = False

    @property
    def room(self) -> EngineRoom:
        return EngineRoom(num_sequences=4, kv_tokens=100)

    @property
    def failure(self) -> str | None:
        return "ValueError: made to fail" if self.has_failed else None

    async def generate(self, prompt: dict[str, Any], sampling: Any, request_id: str) -> Any:
        self.events.append("generate")
        self.salt = prompt["cache_salt"]
        await self.sampled.wait()
        output = SimpleNamespace(
            index=0, token_ids=[7], logprobs=[{7: SimpleNamespace(logprob=-0.5)}], finish_reason="stop"
        )
        return SimpleNamespace(outputs=[output])

    async def pause(self) -> None:
        self.events.append("pause")

    async def resume(self) -> None:
        self.events.append("resume")

    async def set_version(self, version: int) -> None:
        self.events.append(f"version {version}")

    async def collective_rpc(self, method: str, **arguments: Any) -> list[Any]:
        self.events.append(method)
        return [{}]

    def shutdown(self, *, timeout_s: float) -> None:
        self.events.append("shutdown")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> RecordingBackend:
    made = RecordingBackend()
    tokenizer = SimpleNamespace(batch_decode=lambda ids, skip_special_tokens: ["text" for _ in ids])
    monkeypatch.setattr(engine, "own_children", lambda: None)
    monkeypatch.setattr(engine, "start_backend", lambda *_, **__: made)
    monkeypatch.setattr(engine, "load_tokenizer", lambda *_, **__: tokenizer)
    monkeypatch.setattr(engine, "sampling_params", lambda *_: None)
    return made


def engine_on(stand_in: RecordingBackend, *, inflight: bool) -> RolloutEngine:
    return RolloutEngine(
        0,
        model=ModelConfig(path="none"),
        model_path="none",
        rollout=RolloutConfig(),
        device="cpu",
        dtype="float32",
        publishes_inflight=inflight,
    )


UPDATE = ["start_weight_update", "update_weights", "finish_weight_update", "publish_digests"]


@pytest.mark.parametrize("inflight", [True, False])
def test_a_publish_freezes_what_is_in_flight_or_waits_for_it(stand_in: RecordingBackend, inflight: bool) -> None:
    async def scenario() -> None:
        rollout = engine_on(stand_in, inflight=inflight)
        await rollout.receive(0, [], verify=False)
        assert stand_in.events == [*UPDATE, "version 0"], "nothing is frozen where nothing is in flight"
        stand_in.events.clear()

        generating = asyncio.create_task(rollout.generate(PROMPT, SAMPLING))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.01, stand_in.sampled.set)
        receipt = await rollout.receive(1, [], verify=False)
        expected = ["pause", *UPDATE, "version 1", "resume"] if inflight else [*UPDATE, "version 1"]
        assert stand_in.events == ["generate", *expected]
        assert generating.done() != inflight
        assert (receipt.version, receipt.digests) == (1, ({},))
        group, _ = await generating
        assert group.completions[0].text == "text"

    asyncio.run(scenario())


def test_an_engine_samples_nothing_before_the_first_publish(stand_in: RecordingBackend) -> None:
    async def scenario() -> None:
        rollout = engine_on(stand_in, inflight=True)
        early = asyncio.create_task(rollout.generate(PROMPT, SAMPLING))
        await asyncio.sleep(0)
        assert stand_in.events == []
        await rollout.receive(0, [], verify=False)
        stand_in.sampled.set()
        group, _ = await early
        assert group.completions[0].tokens.min_policy_version == 0

    asyncio.run(scenario())


def test_an_engine_says_whether_it_is_well_and_whether_it_should_get_on(stand_in: RecordingBackend) -> None:
    async def scenario() -> None:
        rollout = engine_on(stand_in, inflight=True)
        await rollout.receive(0, [], verify=False)
        assert (await rollout.health()).progress is None, "it has nothing to do"
        generating = asyncio.create_task(rollout.generate(PROMPT, SAMPLING))
        await asyncio.sleep(0)
        before = await rollout.health()
        rollout._note_load(EngineLoad(num_running=1, num_waiting=0, kv_usage=0.0))
        after = await rollout.health()
        assert (before.process, before.progress) == (os.getpid(), 0)
        assert after.progress == 1
        stand_in.sampled.set()
        await generating
        stand_in.has_failed = True
        with pytest.raises(RuntimeError, match="vLLM has failed: ValueError: made to fail"):
            await rollout.health()

    asyncio.run(scenario())


def test_an_engine_whose_child_is_stopped_is_not_well(stand_in: RecordingBackend) -> None:
    with subprocess.Popen(["sleep", "600"], env={OWNER_VARIABLE: str(os.getpid())}) as child:
        try:
            rollout = engine_on(stand_in, inflight=True)
            asyncio.run(rollout.health())
            child.send_signal(signal.SIGSTOP)
            deadline = time.monotonic() + 60.0
            while not is_stopped(child.pid):
                assert time.monotonic() < deadline
            with pytest.raises(RuntimeError, match=f"its process {child.pid} is stopped"):
                asyncio.run(rollout.health())
        finally:
            child.kill()


def test_after_a_publish_that_broke_off_an_engine_samples_nothing_and_says_that_it_has_failed(
    stand_in: RecordingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(method: str, **_: Any) -> list[Any]:
        raise RuntimeError("connection closed by peer")

    async def scenario() -> None:
        rollout = engine_on(stand_in, inflight=True)
        await rollout.receive(0, [], verify=False)
        frozen = asyncio.create_task(rollout.generate(PROMPT, SAMPLING))
        await asyncio.sleep(0)
        with monkeypatch.context() as patched:
            patched.setattr(stand_in, "collective_rpc", broken)
            with pytest.raises(RuntimeError, match="connection closed"):
                await rollout.receive(1, [], verify=False)
        waiting = asyncio.create_task(rollout.generate(PROMPT, SAMPLING))
        await asyncio.sleep(0)
        health = await rollout.health()
        assert health.has_mixed_weights
        assert health.progress is None, "it need not get on"
        assert stand_in.events[-2:] == ["generate", "pause"], "neither goes on under weights that are mixed"
        for task in (frozen, waiting):
            task.cancel()

    asyncio.run(scenario())


def test_a_version_that_comes_again_over_another_connection_shares_no_cache(stand_in: RecordingBackend) -> None:
    """A learner that is built again from a checkpoint publishes versions that engines have had with other weights."""
    meeting = Rendezvous(backend="gloo", host="", port=0, world_size=2, timeout_s=1.0)

    async def salt() -> str:
        await rollout.connect(meeting, 1)
        await rollout.receive(3, [], verify=False)
        await rollout.generate(PROMPT, SAMPLING)
        first = stand_in.salt
        await rollout.receive(4, [], verify=False)
        await rollout.generate(PROMPT, SAMPLING)
        assert stand_in.salt != first
        return first

    async def scenario() -> None:
        stand_in.sampled.set()
        assert await salt() != await salt()

    rollout = engine_on(stand_in, inflight=True)
    asyncio.run(scenario())
