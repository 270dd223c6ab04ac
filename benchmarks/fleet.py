"""Benchmark of the rollout fleet against bare vLLM: the same prompts, seeds and sampling, tokens/s of each.

One peer is vLLM's offline class LLM, called once with the whole batch in a process of its own. The other is AsyncLLM,
which RolloutEngine uses with rollout.frontend=async, called once in its process.
"""

import asyncio
import time
from typing import Any

import ray

from benchmarks.pairs import PairedRate, measure_pairs
from benchmarks.parts import peer_process, running_parts
from orchestration.parts import Parts, training_sampling
from rollout.contract import Prompt, SamplingSpec
from rollout.engines.engine import RolloutEngine
from rollout.engines.sampling import request_seed, sampling_params

TARGET = 0.95


class BareEngine:
    """vLLM's LLM with the settings of RolloutEngine, without any code of ours around it."""

    def __init__(self, model_path: str, max_model_len: int, kv_cache_gib: float, max_num_seqs: int) -> None:
        import os

        os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
        from vllm import LLM

        self._llm = LLM(
            model=model_path,
            dtype="float32",
            max_model_len=max_model_len,
            max_num_seqs=max_num_seqs,
            kv_cache_memory_bytes=int(kv_cache_gib * 2**30),
            logprobs_mode="processed_logprobs",
            generation_config="vllm",
        )

    def generate(self, prompts: list[Prompt], sampling: SamplingSpec) -> float:
        """Tokens a second over the whole batch."""
        from vllm import SamplingParams

        params = [
            SamplingParams(
                n=sampling.num_completions,
                seed=request_seed(sampling.seed, prompt.position),
                temperature=sampling.temperature,
                max_tokens=sampling.max_new_tokens,
                logprobs=0,
            )
            for prompt in prompts
        ]
        inputs: Any = [{"prompt_token_ids": prompt.token_ids.tolist()} for prompt in prompts]
        started = time.perf_counter()
        outputs = self._llm.generate(inputs, params, use_tqdm=False)
        elapsed_s = time.perf_counter() - started
        return sum(len(completion.token_ids) for output in outputs for completion in output.outputs) / elapsed_s


class BareAsyncEngine(RolloutEngine):
    """The AsyncLLM that RolloutEngine builds, called directly, which shows the cost of its process and its frontend."""

    async def generate_all(self, prompts: list[Prompt], sampling: SamplingSpec) -> float:
        """Tokens a second over the whole batch."""
        started = time.perf_counter()
        counts = await asyncio.gather(*(self._count(prompt, sampling) for prompt in prompts))
        return sum(counts) / (time.perf_counter() - started)

    async def _count(self, prompt: Prompt, sampling: SamplingSpec) -> int:
        inputs: Any = {"prompt_token_ids": prompt.token_ids.tolist()}
        final = await self._llm.generate(inputs, sampling_params(prompt, sampling), f"{time.perf_counter()}")
        return sum(len(completion.token_ids) for completion in final.outputs)


def fleet_rate(parts: Parts, prompts: list[Prompt], sampling: SamplingSpec) -> float:
    """Tokens a second from the first submission to the arrival of the last group at the driver."""
    started = time.perf_counter()
    for prompt in prompts:
        parts.fleet.submit(prompt, sampling)
    num_tokens = 0
    while parts.fleet.num_in_flight:
        finished = parts.fleet.await_finished()
        ray.get([group.group_ref for group in finished])
        num_tokens += sum(group.summary.num_tokens for group in finished)
    return num_tokens / (time.perf_counter() - started)


def benchmark_fleet(*, repeats: int) -> list[PairedRate]:
    """Measures a fleet of one engine and one bare engine in turn; each idles while the other runs."""
    with running_parts() as parts:
        model, rollout, model_path = parts.config.model, parts.config.rollout, parts.learner.spec.model_path
        sampling = training_sampling(parts.config)
        prompts = list(parts.eval_sets["arithmetic"][: rollout.prompts_per_iteration])
        bare = peer_process(BareEngine).remote(
            model_path, model.max_model_len, rollout.kv_cache_gib, rollout.max_num_seqs
        )
        async_bare = peer_process(BareAsyncEngine).remote(
            1,
            model=model,
            model_path=model_path,
            rollout=rollout.model_copy(update={"frontend": "async"}),
            device="cpu",
            dtype="float32",
            publishes_inflight=True,
        )
        rates = []
        for name, generate in (("LLM.generate", bare.generate), ("AsyncLLM", async_bare.generate_all)):
            ours, peers = measure_pairs(
                lambda: fleet_rate(parts, prompts, sampling),
                lambda generate=generate: ray.get(generate.remote(prompts, sampling)),  # type: ignore[misc]
                repeats=repeats,
            )
            kind = {"name": "rollout fleet", "peer": f"bare vLLM {name}", "unit": "tokens/s"}
            rates.append(PairedRate(**kind, ours=ours, peers=peers, target=TARGET))
        ray.get(async_bare.shutdown.remote())
        for idle in (bare, async_bare):
            ray.kill(idle)
    return rates
