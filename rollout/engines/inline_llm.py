"""vLLM's LLMEngine as an EngineBackend: the engine in the caller's own process.

AsyncLLM puts the engine into a process of its own and talks to it by messages. Where both compute on the same few cores
that costs a second import of vLLM at start and a share of every token; here one thread owns the engine instead. It
steps while requests are unfinished and runs whatever else is asked of it between two steps. Knows nothing of groups,
versions or publishes.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from vllm import RequestOutput, SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.engine.llm_engine import LLMEngine

from rollout.contract import EngineLoad, EngineRoom
from rollout.engines.backend import AfterStep, EngineBackend, room_of
from rollout.engines.vllm_versions import kv_cache_usage, weight_version_setter

# An idle engine waits this long for more requests before it steps, and again while some come: those of a batch enter
# one by one, and a step for a few of them takes nearly as long as one for all.
LINGER_S = 0.0003

ResultT = TypeVar("ResultT")


class InlineLLM(EngineBackend):
    """One LLMEngine and the thread that owns it. VLLM_ENABLE_V1_MULTIPROCESSING must be 0 before vLLM is imported.

    An exception of vLLM in a step reaches every request that was unfinished; the engine cannot be used afterwards.
    """

    def __init__(self, arguments: EngineArgs, after_step: AfterStep) -> None:
        """Loads the model; raises what vLLM raises. after_step is called on the engine's thread."""
        self._after_step = after_step
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vllm")
        self._engine = self._thread.submit(LLMEngine.from_engine_args, arguments).result()
        self._answers: dict[
            str, Future[RequestOutput]
        ] = {}  # answers of unfinished requests; only the thread changes it
        self._is_paused = False
        self._is_stepping = False  # True where a step is queued or under way, or will be after lingering
        self._failure: BaseException | None = None

    @property
    def room(self) -> EngineRoom:
        return room_of(self._engine.vllm_config)

    @property
    def failure(self) -> str | None:
        return None if self._failure is None else f"{type(self._failure).__name__}: {self._failure}"

    async def generate(self, prompt: dict[str, Any], sampling: SamplingParams, request_id: str) -> RequestOutput:
        """sampling must ask for FINAL_ONLY outputs, or for one completion."""
        answer: Future[RequestOutput] = Future()
        await self._run(self._add, request_id, prompt, sampling, answer)
        return await asyncio.wrap_future(answer)

    async def pause(self) -> None:
        """Waits for the step under way."""
        await self._run(self._pause)

    async def resume(self) -> None:
        await self._run(self._resume)

    async def set_version(self, version: int) -> None:
        if (label := weight_version_setter(self._engine.engine_core)) is not None:
            await self._run(label, str(version))

    async def collective_rpc(self, method: str, **arguments: Any) -> list[Any]:
        """Calls the method between two steps."""
        return await self._run(partial(self._engine.collective_rpc, method, kwargs=arguments))

    def shutdown(self, *, timeout_s: float) -> None:
        self._thread.submit(self._pause)
        self._thread.submit(self._engine.engine_core.shutdown, timeout_s)
        self._thread.shutdown(cancel_futures=False)

    async def _run(self, function: Callable[..., ResultT], *arguments: Any) -> ResultT:
        """Runs the function on the engine's thread, in the order of the calls."""
        self._refuse_after_failure()
        return await asyncio.wrap_future(self._thread.submit(function, *arguments))

    def _refuse_after_failure(self) -> None:
        if self._failure is not None:
            raise RuntimeError("vLLM's engine has failed before") from self._failure

    def _add(self, request_id: str, prompt: Any, sampling: SamplingParams, answer: Future[RequestOutput]) -> None:
        self._refuse_after_failure()  # again: the step that this waited for may be the one that failed
        self._engine.add_request(request_id, prompt, sampling)
        self._answers[request_id] = answer
        if not self._is_paused and not self._is_stepping:
            self._is_stepping = True
            self._thread.submit(self._linger, 0)

    def _linger(self, num_seen: int) -> None:
        """Steps once no more requests arrive; they queue up behind this call while it sleeps."""
        if len(self._answers) > num_seen:
            time.sleep(LINGER_S)
            self._thread.submit(self._linger, len(self._answers))
        else:
            self._queue_step()

    def _pause(self) -> None:
        self._is_paused = True

    def _resume(self) -> None:
        self._is_paused = False
        if not self._is_stepping:
            self._queue_step()

    def _queue_step(self) -> None:
        """Queues a step behind what else was asked meanwhile, unless paused or idle."""
        self._is_stepping = bool(self._answers) and not self._is_paused
        if self._is_stepping:
            self._thread.submit(self._step).add_done_callback(self._stepped)

    def _step(self) -> None:
        for output in self._engine.step():
            if output.finished:
                self._answers.pop(output.request_id).set_result(output)
        self._after_step(self._load())

    def _load(self) -> EngineLoad:
        scheduler = self._engine.engine_core.engine_core.scheduler
        num_running, num_waiting = scheduler.get_request_counts()
        return EngineLoad(num_running=num_running, num_waiting=num_waiting, kv_usage=kv_cache_usage(scheduler))

    def _stepped(self, step: "Future[None]") -> None:
        """Queues the next step, or fails all requests; runs on the engine's thread right after the step."""
        self._failure = step.exception()
        if self._failure is None:
            self._queue_step()
        else:
            for answer in self._answers.values():
                answer.set_exception(self._failure)
