"""The start of vLLM for one RolloutEngine: environment, engine arguments, choice of the backend.

In: the model's and the rollout's settings, the device. Out: a running EngineBackend. Importing this file imports
nothing of vLLM, which reads its environment when it is imported.
"""

import os
from pathlib import Path
from typing import Any

from configs.schema import Frontend, ModelConfig, RolloutConfig
from rollout.engines.backend import AfterStep, EngineBackend
from rollout.engines.scratch import use_own_temporary_folder

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def start_backend(
    model: ModelConfig, model_path: str, rollout: RolloutConfig, *, device: str, dtype: str, after_step: AfterStep
) -> EngineBackend:
    """Returns once vLLM has loaded the model; raises what vLLM raises. dtype: of weights and activations."""
    is_inline = runs_inline(rollout.frontend, device)
    _prepare_environment(device, is_inline=is_inline, eager=rollout.enforce_eager)
    arguments = _engine_args(model, model_path, rollout, device=device, dtype=dtype)
    if is_inline:
        from rollout.engines.inline_llm import InlineLLM

        return InlineLLM(arguments, after_step)
    from rollout.engines.async_llm import AsyncBackend

    return AsyncBackend(arguments, after_step)


def runs_inline(frontend: Frontend, device: str) -> bool:
    """Whether the engine computes in the actor's own process (inline_llm.py) instead of AsyncLLM's child.

    auto: on a CPU, where a second process would take its share of the cores that compute.
    """
    return frontend == "inline" or (frontend == "auto" and device == "cpu")


def _prepare_environment(device: str, *, is_inline: bool, eager: bool) -> None:
    """Variables that vLLM reads when it is imported, here and in the process it starts, and its temporary folder."""
    use_own_temporary_folder()
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
