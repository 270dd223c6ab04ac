"""RolloutEngine: one vLLM engine inside one Ray actor.

Prompts come in, PromptGroups with sampled-token logprobs go out; weights arrive through receiver.py. Only this
file and inline_llm.py build a vLLM engine. It knows nothing of rewards, of the learner, or of other engines.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from configs.schema import ModelConfig, RolloutConfig
from rollout.contract import (
    EngineLoad,
    EngineReceipt,
    EngineRoom,
    GroupChunk,
    GroupRequest,
    GroupSummary,
    Prompt,
    PromptGroup,
    SamplingSpec,
)
from rollout.engines.completions import completions_of
from rollout.engines.orphans import own_children
from rollout.engines.outbox import Outbox
from rollout.engines.room_watch import RoomWatch
from rollout.prompts import load_tokenizer
from transfer.communicator import Rendezvous
from transfer.spans import Span, SpanLog
from transfer.wire import ParameterGroup

PROJECT_ROOT = Path(__file__).resolve().parents[2]
SHUTDOWN_GRACE_S = 0.5  # for vLLM's child to go by itself; nothing of it is needed any more
MIXED_SEED_BITS = 62  # vLLM adds the sample index to a request's seed; this leaves room below int64


def request_seed(seed: int, position: int) -> int:
    """Seed of a prompt's first sample; sample i uses this + i. Equal on every engine, independent of arrival order."""
    mixed = hashlib.blake2b(f"{seed}/{position}".encode(), digest_size=8).digest()
    return int.from_bytes(mixed, "big") >> (64 - MIXED_SEED_BITS)


class RolloutEngine:
    """One vLLM engine; an async actor, so that many prompts are in flight at once."""

    def __init__(
        self,
        index: int,
        *,
        model: ModelConfig,
        model_path: str,
        rollout: RolloutConfig,
        device: str,
        dtype: str,
        publishes_inflight: bool,
    ) -> None:
        """dtype: of weights and activations, "float32" or the like. Returns once vLLM is ready.

        publishes_inflight: a publish freezes the completions in flight; otherwise they are finished before it.
        """
        self._index = index
        self._publishes_inflight = publishes_inflight
        self._version = -1  # nothing published yet; generate() refuses until version 0 has arrived
        self._settled = asyncio.Event()  # clear while a publish is under way
        self._settled.set()
        self._num_generating = 0  # requests inside vLLM
        self._idle = asyncio.Event()  # set while there are none
        self._idle.set()
        self._num_entered = 0  # requests that vLLM was given, since the start
        self._loop: asyncio.AbstractEventLoop | None = None  # the actor's, known from the first prompts on
        self._outbox = Outbox()
        self._producing: set[asyncio.Task[tuple[PromptGroup, GroupSummary]]] = set()
        self._spans = SpanLog("engine", index)
        own_children()
        is_inline = runs_inline(rollout.frontend, device)
        _prepare_environment(device, is_inline=is_inline, eager=rollout.enforce_eager)
        self._tokenizer = load_tokenizer(model_path, trust_remote_code=model.trust_remote_code)
        arguments = _engine_args(model, model_path, rollout, device=device, dtype=dtype)
        self._llm = _build_llm(arguments, inline=is_inline, after_step=self._note_load)
        self._watch = RoomWatch(_room_of(self._llm.vllm_config))

    async def ready(self) -> int:
        """Answers once the engine is up; its process id."""
        return os.getpid()

    async def serve_loaded_weights(self) -> None:
        """Version 0 is what vLLM loaded from the model folder: for an evaluation, where nobody publishes."""
        await self._set_version(0)

    async def room(self) -> EngineRoom:
        """Answers once the engine is up; what it holds at most."""
        return self._watch.room

    async def start(self, requests: list[GroupRequest], *, holds_back: bool) -> None:
        """Begins to sample groups, which collect() gives out; holds_back: the fleet has more for whoever has room."""
        self._loop = asyncio.get_running_loop()
        self._watch.is_wanted = holds_back
        self._outbox.expect(len(requests))
        for request in requests:
            task = asyncio.create_task(self.generate(request.prompt, request.sampling))
            self._producing.add(task)
            task.add_done_callback(partial(self._produced, request.ticket))

    async def collect(self, limit: int, *, holds_back: bool) -> tuple[Any, ...]:
        """A GroupChunk and then `limit` objects: its groups, filled up with None. Raises what a request raised.

        Waits until groups finish (rollout/engines/outbox.py), or until there is room if the fleet holds prompts back.
        """
        self._watch.is_wanted = holds_back
        taken = await self._outbox.take(limit)
        self._watch.told()
        chunk = GroupChunk(
            tickets=tuple(ticket for ticket, _, _ in taken),
            summaries=tuple(summary for _, _, summary in taken),
            load=self._watch.load,
            num_entered=self._watch.num_counted,
        )
        return (chunk, *(group for _, group, _ in taken), *[None] * (limit - len(taken)))

    def _produced(self, ticket: int, task: "asyncio.Task[tuple[PromptGroup, GroupSummary]]") -> None:
        self._producing.discard(task)
        error = task.exception()
        if error is None:
            self._outbox.deliver((ticket, *task.result()))
        else:
            self._outbox.fail(error)

    def _note_load(self, load: EngineLoad) -> None:
        """After each step of vLLM, on whatever thread."""
        if self._watch.stepped(load, self._num_entered) and self._loop is not None:
            self._watch.is_wanted = False  # told once; the fleet's next call says whether it still has some
            self._loop.call_soon_threadsafe(self._outbox.hurry)

    async def generate(self, prompt: Prompt, sampling: SamplingSpec) -> tuple[PromptGroup, GroupSummary]:
        """Samples the group of one prompt; raises RuntimeError before version 0 was published.

        A prompt that arrives during a publish waits for it, so that it starts under the new version.
        """
        await self._settled.wait()
        if self._version < 0:
            raise RuntimeError(f"engine {self._index}: generate() before the first publish")
        started, first_version = time.perf_counter(), self._version
        # The salt keeps cached prefixes of older weights from being found: with requests frozen in flight vLLM cannot
        # empty the cache.
        tokens = {"prompt_token_ids": prompt.token_ids.tolist(), "cache_salt": str(first_version)}
        self._num_generating += 1
        self._idle.clear()
        self._num_entered += 1
        try:
            with self._spans.span("generate"):
                final = await self._finished(tokens, sampling_params(prompt, sampling), f"{prompt.position}-{started}")
        finally:
            self._num_generating -= 1
            if self._num_generating == 0:
                self._idle.set()
        group = PromptGroup(
            prompt=prompt,
            completions=completions_of(prompt, final, self._tokenizer, first_version=first_version),
            engine_index=self._index,
            generate_s=time.perf_counter() - started,
        )
        return group, GroupSummary.of(group)

    async def connect(self, rendezvous: Rendezvous, rank_offset: int) -> None:
        """Joins the broadcast group of the publishes; blocks until all members are there."""
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest

        info = {"rendezvous": asdict(rendezvous), "rank_offset": rank_offset}
        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info=info))

    async def receive(self, version: int, groups: list[ParameterGroup], *, verify: bool) -> EngineReceipt:
        """Takes one publish: freezes requests in flight or waits for their end, loads the weights, resumes."""
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        described = [
            {"label": g.label, "parameters": [(m.name, m.dtype_name, list(m.shape)) for m in g.parameters]}
            for g in groups
        ]
        self._settled.clear()
        if not self._publishes_inflight:
            await self._idle.wait()  # vLLM finishes what it has; the publish's time-out, in the channel, bounds it
        started_s = self._spans.now()
        # Pausing costs AsyncLLM 20 ms of waiting; without requests in flight there is nothing to freeze; new ones wait.
        is_busy = self._num_generating > 0
        if is_busy:
            await self._llm.pause_generation(mode="keep", clear_cache=False)
        await self._llm.start_weight_update()
        update = WeightTransferUpdateRequest(update_info={"groups": described, "verify": verify})
        await self._llm.update_weights(update)
        await self._llm.finish_weight_update()
        digests = await self._llm.collective_rpc("publish_digests")
        await self._set_version(version)
        if is_busy:
            await self._llm.resume_generation()
        self._settled.set()
        self._spans.add("publish", started_s)
        return EngineReceipt(
            engine_index=self._index,
            version=version,
            digests=tuple(digests),
            paused_s=self._spans.now() - started_s,
            spans=self._spans.drain(),
        )

    async def _set_version(self, version: int) -> None:
        self._version = version
        if hasattr(self._llm, "update_weight_version"):  # vLLM 0.26 has no such call
            await self._llm.update_weight_version(str(version))

    async def drain_spans(self) -> tuple[Span, ...]:
        """What the engine did since it told last, with a receipt or here."""
        return self._spans.drain()

    async def score(self, token_ids: np.ndarray, prompt_length: int) -> np.ndarray:
        """Logprobs [C] of the tokens after prompt_length under the engine's weights at temperature 1, for the probe."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False, temperature=0.0)
        final = await self._finished({"prompt_token_ids": token_ids.tolist()}, params, f"probe-{time.perf_counter()}")
        scored = zip(token_ids.tolist(), final.prompt_logprobs, strict=True)
        chosen = [entry[token].logprob for token, entry in list(scored)[prompt_length:] if entry is not None]
        return np.asarray(chosen, dtype=np.float32)

    async def _finished(self, prompt: dict[str, Any], params: Any, request_id: str) -> Any:
        """vLLM's RequestOutput once all completions of the request are there."""
        final = None
        async for output in self._llm.generate(prompt, params, request_id):
            final = output
        assert final is not None, request_id
        return final

    async def shutdown(self) -> None:
        """Ends vLLM's processes."""
        await asyncio.to_thread(self._llm.shutdown, timeout=SHUTDOWN_GRACE_S)


def runs_inline(frontend: Literal["auto", "async", "inline"], device: str) -> bool:
    """Whether the engine computes in the actor's own process (inline_llm.py) instead of AsyncLLM's child.

    auto: on a CPU, where a second process would take its share of the cores that compute.
    """
    return frontend == "inline" or (frontend == "auto" and device == "cpu")


def _build_llm(arguments: Any, *, inline: bool, after_step: Callable[[EngineLoad], None]) -> Any:
    if inline:
        from rollout.engines.inline_llm import InlineLLM

        return InlineLLM(arguments, after_step)
    from rollout.engines.async_llm import start_async_llm

    return start_async_llm(arguments, after_step)


def _room_of(vllm_config: Any) -> EngineRoom:
    cache = vllm_config.cache_config
    return EngineRoom(
        num_sequences=vllm_config.scheduler_config.max_num_seqs, kv_tokens=cache.num_gpu_blocks * cache.block_size
    )


def _prepare_environment(device: str, *, is_inline: bool, eager: bool) -> None:
    """Variables that vLLM reads when it is imported, here and in the process it starts."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    # vLLM's child imports our receiver by name; where the project is not installed only this process knows its place.
    inherited = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PROJECT_ROOT), *inherited])
    if is_inline or device == "cpu":
        # Without it vLLM puts its CPU worker into a third process beside AsyncLLM's: one more import and hop a token.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if device == "cpu":
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # engines bound to the same cores starve each other
        if eager:  # vLLM's sampler is compiled even then, for 13 s at the first token
            os.environ["TORCH_COMPILE_DISABLE"] = "1"


def _engine_args(model: ModelConfig, model_path: str, rollout: RolloutConfig, *, device: str, dtype: str) -> Any:
    from vllm.config import WeightTransferConfig
    from vllm.engine.arg_utils import AsyncEngineArgs

    from rollout.engines.receiver import BACKEND, WORKER_EXTENSION

    placed: dict[str, Any] = {}
    if device == "cpu":
        placed["kv_cache_memory_bytes"] = int(rollout.kv_cache_gib * 2**30)
        # A seeded request whose prompt is read in pieces rewinds its random state by CUDA's means, which a CPU lacks.
        placed["enable_chunked_prefill"] = False
    else:
        placed["gpu_memory_utilization"] = rollout.gpu_memory_utilization
    if rollout.attention_backend != "auto":
        placed["attention_backend"] = rollout.attention_backend
    executor = "mp" if rollout.tensor_parallel_size > 1 else "uni"
    return AsyncEngineArgs(
        model=model_path,
        trust_remote_code=model.trust_remote_code,
        dtype=dtype,
        max_model_len=model.max_model_len,
        max_num_seqs=rollout.max_num_seqs,
        tensor_parallel_size=rollout.tensor_parallel_size,
        distributed_executor_backend=executor,
        enforce_eager=rollout.enforce_eager,
        logprobs_mode="processed_logprobs",  # of the tempered distribution: the one the tokens were drawn from
        generation_config="vllm",
        disable_log_stats=True,
        worker_extension_cls=WORKER_EXTENSION,
        weight_transfer_config=WeightTransferConfig(backend=BACKEND),
        **placed,
    )


def sampling_params(prompt: Prompt, sampling: SamplingSpec) -> Any:
    """vLLM's SamplingParams for one group."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=sampling.num_completions,
        seed=request_seed(sampling.seed, prompt.position),
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_new_tokens,
        logprobs=0,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,  # the cumulative stream returns incomplete groups when n > 1
    )
