"""RolloutEngine: one vLLM engine inside one Ray actor.

Prompts come in, PromptGroups with sampled-token logprobs go out; weights arrive in vLLM's workers (receiver.py). It
talks to vLLM through an EngineBackend and knows nothing of rewards, of the learner, or of other engines.
"""

import asyncio
import os
import time
from functools import partial
from typing import Any

import numpy as np

from configs.schema import ModelConfig, RolloutConfig
from rollout.contract import (
    EngineHealth,
    EngineLoad,
    EngineReceipt,
    EngineRoom,
    FinishedRequest,
    GroupChunk,
    GroupRequest,
    GroupSummary,
    Prompt,
    PromptGroup,
    SamplingSpec,
)
from rollout.engines.orphans import children_of, is_stopped, own_children
from rollout.engines.outbox import Delivery, Outbox
from rollout.engines.room_watch import RoomWatch
from rollout.engines.sampling import completions_of, sampling_params, scoring_params
from rollout.engines.scratch import remove_own_temporary_folder
from rollout.engines.starting import start_backend
from rollout.engines.worker_calls import connect_workers, update_workers
from rollout.prompts import load_tokenizer
from transfer.quick_start import quick_start
from transfer.spans import Span, SpanLog
from transfer.transport import Rendezvous
from transfer.wire import ParameterGroup

SHUTDOWN_GRACE_S = 0.5  # time for vLLM's child to end by itself; nothing of it is needed any more


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
        self._version = -1  # version of the weights; -1: nothing published yet
        self._settled = asyncio.Event()  # event that is clear before the first publish and while one is under way
        self._is_updating = False  # True while weights are loaded, and after that has failed: vLLM samples nothing
        self._has_mixed_weights = False  # True after a publish that has failed
        self._num_generating = 0  # requests inside vLLM
        self._idle = asyncio.Event()  # event that is set while there are none
        self._idle.set()
        self._num_entered = 0  # requests that vLLM was given, since the start
        self._num_steps = 0  # steps of vLLM
        self._num_connections = 0
        self._loop: asyncio.AbstractEventLoop | None = None  # loop of the actor, known from the first prompts on
        self._outbox = Outbox()
        self._producing: set[asyncio.Task[tuple[PromptGroup, GroupSummary]]] = set()
        self._spans = SpanLog("engine", index)
        own_children()
        with quick_start():
            self._llm = start_backend(
                model, model_path, rollout, device=device, dtype=dtype, after_step=self._note_load
            )
            self._tokenizer = load_tokenizer(model_path, trust_remote_code=model.trust_remote_code)
        self._children = list(children_of(os.getpid()))  # vLLM starts no others later
        self._watch = RoomWatch(self._llm.room)

    async def ready(self) -> int:
        """Process id of the engine; answers once it is up."""
        return os.getpid()

    async def health(self) -> EngineHealth:
        """Answers at once, whatever the engine does; raises RuntimeError where vLLM has failed for good."""
        stopped = next(filter(is_stopped, self._children), None)
        failure = f"its process {stopped} is stopped" if stopped is not None else self._llm.failure
        if failure is not None:
            raise RuntimeError(f"vLLM has failed: {failure}")
        is_busy = self._num_generating > 0 and not self._is_updating
        return EngineHealth(
            process=os.getpid(),
            num_steps=self._num_steps,
            is_busy=is_busy,
            has_mixed_weights=self._has_mixed_weights,
        )

    async def serve_loaded_weights(self) -> None:
        """Makes the weights of the model folder version 0: for an evaluation, which has no publishes."""
        await self._set_version(0)
        self._settled.set()

    async def room(self) -> EngineRoom:
        """Capacity of the engine; answers once it is up."""
        return self._watch.room

    async def start(self, requests: list[GroupRequest], *, holds_back: bool) -> None:
        """Begins to sample groups, which collect() gives out; holds_back: more prompts wait in the fleet."""
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
        self._watch.reported()
        chunk = GroupChunk(
            finished=tuple(delivery.finished for delivery in taken),
            load=self._watch.load,
            num_entered=self._watch.num_counted,
        )
        return (chunk, *(delivery.group for delivery in taken), *[None] * (limit - len(taken)))

    def _produced(self, ticket: int, task: "asyncio.Task[tuple[PromptGroup, GroupSummary]]") -> None:
        self._producing.discard(task)
        error = task.exception()
        if error is None:
            group, summary = task.result()
            self._outbox.deliver(Delivery(finished=FinishedRequest(ticket=ticket, summary=summary), group=group))
        else:
            self._outbox.fail(error)

    def _note_load(self, load: EngineLoad) -> None:
        """Takes the load after each step of vLLM, on any thread."""
        self._num_steps += 1
        if self._watch.stepped(load, self._num_entered) and self._loop is not None:
            self._watch.is_wanted = False  # one report; the fleet's next call says whether it still has some
            self._loop.call_soon_threadsafe(self._outbox.answer_now)

    async def generate(self, prompt: Prompt, sampling: SamplingSpec) -> tuple[PromptGroup, GroupSummary]:
        """Samples the group of one prompt.

        A prompt that arrives during a publish waits for it, so that it starts under the new version; one that arrives
        before the first publish waits too: Ray may begin a call before an earlier one whose arguments it still fetches.
        """
        await self._settled.wait()
        started, first_version = time.perf_counter(), self._version
        # The salt keeps cached prefixes of older weights from being found: with requests frozen in flight vLLM cannot
        # empty the cache. Versions repeat with other weights where a learner was built again, over a new connection.
        salt = f"{self._num_connections}/{first_version}"
        tokens = {"prompt_token_ids": prompt.token_ids.tolist(), "cache_salt": salt}
        self._num_generating += 1
        self._idle.clear()
        self._num_entered += 1
        try:
            with self._spans.span("generate"):
                final = await self._llm.generate(
                    tokens, sampling_params(prompt, sampling), f"{prompt.position}-{started}"
                )
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
        """Joins the transport of the publishes; waits until all members are there."""
        self._num_connections += 1
        await connect_workers(self._llm, rendezvous, rank_offset=rank_offset)

    async def receive(self, version: int, groups: list[ParameterGroup], *, verify: bool) -> EngineReceipt:
        """Takes one publish: freezes requests in flight or waits for their end, loads the weights, resumes.

        After one that fails the weights are mixed and vLLM takes no other: nothing is sampled, and health() says so.
        """
        self._settled.clear()
        if not self._publishes_inflight:
            await self._idle.wait()  # vLLM finishes what it has; the publish's time-out, in the channel, bounds it
        started_s = self._spans.now()
        # Pausing costs AsyncLLM 20 ms of waiting; without requests in flight there is nothing to freeze; new ones wait.
        is_busy = self._num_generating > 0
        if is_busy:
            await self._llm.pause()
        self._is_updating = True
        try:
            digests = await update_workers(self._llm, groups, verify=verify)
        except BaseException:
            self._has_mixed_weights = True
            raise
        await self._set_version(version)
        if is_busy:
            await self._llm.resume()
        self._is_updating = False
        self._settled.set()
        self._spans.add("publish", started_s)
        return EngineReceipt(
            engine_index=self._index,
            version=version,
            digests=digests,
            paused_s=self._spans.now() - started_s,
            spans=self._spans.drain(),
        )

    async def _set_version(self, version: int) -> None:
        self._version = version
        await self._llm.set_version(version)

    async def drain_spans(self) -> tuple[Span, ...]:
        """Spans since the last report, in a receipt or here."""
        return self._spans.drain()

    async def score(self, token_ids: np.ndarray, prompt_length: int) -> np.ndarray:
        """Logprobs [C] of the tokens after prompt_length under the engine's weights at temperature 1, for the probe."""
        tokens = {"prompt_token_ids": token_ids.tolist()}
        final = await self._llm.generate(tokens, scoring_params(), f"probe-{time.perf_counter()}")
        scored = zip(token_ids.tolist(), final.prompt_logprobs, strict=True)
        chosen = [entry[token].logprob for token, entry in list(scored)[prompt_length:] if entry is not None]
        return np.asarray(chosen, dtype=np.float32)

    async def shutdown(self) -> None:
        """Ends vLLM's processes and removes what they leave in the temporary folder."""
        await asyncio.to_thread(self._llm.shutdown, timeout_s=SHUTDOWN_GRACE_S)
        remove_own_temporary_folder()
