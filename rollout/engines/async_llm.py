"""vLLM's AsyncLLM as an EngineBackend: the engine in a process of its own.

In: engine arguments. Out: the backend, and after each step the load that vLLM's scheduler reports. inline_llm.py is the
same in the caller's process, where the scheduler can be asked directly.
"""

from functools import partial
from typing import Any

from vllm import RequestOutput, SamplingParams
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.metrics.loggers import PrometheusStatLogger, StatLoggerBase

from rollout.contract import EngineLoad, EngineRoom
from rollout.engines.backend import AfterStep, EngineBackend, room_of
from rollout.engines.vllm_versions import weight_version_setter


class _LoadLogger(StatLoggerBase):
    """Passes on the load that vLLM's scheduler reports with each step; vLLM calls it on its event loop."""

    def __init__(self, vllm_config: VllmConfig, engine_index: int = 0, *, listener: AfterStep) -> None:
        self._listener = listener

    def record(self, scheduler_stats: Any, iteration_stats: Any, *args: Any, **keywords: Any) -> None:
        if scheduler_stats is not None:
            load = EngineLoad(
                num_running=scheduler_stats.num_running_reqs,
                num_waiting=scheduler_stats.num_waiting_reqs,
                kv_usage=scheduler_stats.kv_cache_usage,
            )
            self._listener(load)

    def log_engine_initialized(self) -> None:
        """Logs nothing."""


class AsyncBackend(EngineBackend):
    """AsyncLLM as an EngineBackend."""

    def __init__(self, arguments: AsyncEngineArgs, after_step: AfterStep) -> None:
        """Starts the engine in a process of its own; after_step is called on the event loop."""
        self._llm = AsyncLLM.from_engine_args(arguments, stat_loggers=[partial(_LoadLogger, listener=after_step)])
        loggers = self._llm.logger_manager
        assert loggers is not None
        # Where anyone listens vLLM adds its Prometheus logger, whose histograms take every token of every request.
        loggers.stat_loggers = [one for one in loggers.stat_loggers if not isinstance(one, PrometheusStatLogger)]

    @property
    def room(self) -> EngineRoom:
        return room_of(self._llm.vllm_config)

    @property
    def failure(self) -> str | None:
        return "its engine process has ended" if self._llm.errored else None

    async def generate(self, prompt: dict[str, Any], sampling: SamplingParams, request_id: str) -> RequestOutput:
        final = None
        async for output in self._llm.generate(prompt, sampling, request_id):
            final = output
        assert final is not None, request_id
        return final

    async def pause(self) -> None:
        await self._llm.pause_generation(mode="keep", clear_cache=False)

    async def resume(self) -> None:
        await self._llm.resume_generation()

    async def set_version(self, version: int) -> None:
        if (label := weight_version_setter(self._llm)) is not None:
            await label(str(version))

    async def collective_rpc(self, method: str, **arguments: Any) -> list[Any]:
        return await self._llm.collective_rpc(method, kwargs=arguments)

    def shutdown(self, *, timeout_s: float) -> None:
        self._llm.shutdown(timeout=timeout_s)
