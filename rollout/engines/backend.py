"""EngineBackend: the interface of the vLLM engine inside a RolloutEngine.

async_llm.py (vLLM's AsyncLLM, in a process of its own) and inline_llm.py (vLLM's LLMEngine, in the actor's process)
implement it; starting.py chooses. A further backend is a class in a file of its own and a branch there. Knows nothing
of groups or publishes.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

from rollout.contract import EngineLoad, EngineRoom

AfterStep = Callable[[EngineLoad], None]  # function that takes the load after each step, often and on any thread


class EngineBackend(Protocol):
    """One running engine; a class that implements it names it as its base, so that nothing can be left out."""

    @property
    @abstractmethod
    def room(self) -> EngineRoom:
        """Capacity of the engine."""

    @property
    @abstractmethod
    def failure(self) -> str | None:
        """How the engine has failed for good, in one line; None while it works."""

    @abstractmethod
    async def generate(self, prompt: dict[str, Any], sampling: Any, request_id: str) -> Any:
        """vLLM's RequestOutput with all completions of the request; sampling is vLLM's SamplingParams."""

    @abstractmethod
    async def pause(self) -> None:
        """Freezes the unfinished requests where they are and keeps their cache."""

    @abstractmethod
    async def resume(self) -> None:
        """Continues the frozen requests."""

    @abstractmethod
    async def set_version(self, version: int) -> None:
        """Labels the tokens sampled from now on with the version of the weights, where vLLM has such labels."""

    @abstractmethod
    async def collective_rpc(self, method: str, **arguments: Any) -> list[Any]:
        """Results of a method of vLLM's workers, one a worker."""

    @abstractmethod
    def shutdown(self, *, timeout_s: float) -> None:
        """Ends the engine and its processes, and blocks meanwhile; unfinished requests are lost."""


def room_of(vllm_config: Any) -> EngineRoom:
    """The room that vLLM's configuration gives an engine."""
    cache = vllm_config.cache_config
    return EngineRoom(
        num_sequences=vllm_config.scheduler_config.max_num_seqs, kv_tokens=cache.num_gpu_blocks * cache.block_size
    )
