"""vLLM's AsyncLLM with an eye on its scheduler: how full it is after each step, as vLLM reports it.

In: engine arguments. Out: the engine, and the newest load. The counterpart of inline_llm.py, where the scheduler
lies in the same process and can be asked.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.metrics.loggers import PrometheusStatLogger, StatLoggerBase

from rollout.contract import EngineLoad


class _LoadLogger(StatLoggerBase):
    """Passes on what vLLM's scheduler tells with each step; vLLM makes it and calls it on its event loop."""

    def __init__(
        self, vllm_config: VllmConfig, engine_index: int = 0, *, listener: Callable[[EngineLoad], None]
    ) -> None:
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
        """There is nothing to tell."""


def start_async_llm(arguments: AsyncEngineArgs, after_step: Callable[[EngineLoad], None]) -> AsyncLLM:
    """Starts the engine in a process of its own; after_step is called on the event loop, often."""
    llm = AsyncLLM.from_engine_args(arguments, stat_loggers=[partial(_LoadLogger, listener=after_step)])
    loggers = llm.logger_manager
    assert loggers is not None
    # Where anyone listens vLLM adds its Prometheus logger, whose histograms take every token of every request.
    loggers.stat_loggers = [one for one in loggers.stat_loggers if not isinstance(one, PrometheusStatLogger)]
    return llm
