"""Requests to vLLM: the seed and SamplingParams of a request, and the completions in its answer.

In: a prompt and a SamplingSpec, then vLLM's RequestOutput. Out: SamplingParams, then Completions in sample order.
Imports vLLM only where SamplingParams are made.
"""

import hashlib
from typing import Any

import numpy as np

from rollout.contract import Completion, Prompt, SampledTokens, SamplingSpec, VersionStart
from rollout.engines.vllm_versions import weight_version_spans

MIXED_SEED_BITS = 62  # vLLM adds the sample index to a request's seed; this leaves room below int64


def request_seed(seed: int, position: int) -> int:
    """Seed of a prompt's first sample; sample i uses this + i. Equal on every engine, independent of arrival order."""
    mixed = hashlib.blake2b(f"{seed}/{position}".encode(), digest_size=8).digest()
    return int.from_bytes(mixed, "big") >> (64 - MIXED_SEED_BITS)


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


def scoring_params() -> Any:
    """vLLM's SamplingParams of a request that asks for the logprobs of its prompt."""
    from vllm import SamplingParams

    return SamplingParams(max_tokens=1, prompt_logprobs=0, detokenize=False, temperature=0.0)


def completions_of(prompt: Prompt, final: Any, tokenizer: Any, *, first_version: int) -> tuple[Completion, ...]:
    """The completions in a finished RequestOutput, each one turn after the prompt."""
    outputs = sorted(final.outputs, key=lambda output: output.index)
    texts = tokenizer.batch_decode([list(output.token_ids) for output in outputs], skip_special_tokens=True)
    return tuple(
        Completion(
            tokens=SampledTokens.one_turn(
                prompt.token_ids,
                np.asarray(output.token_ids, dtype=np.int32),
                rollout_logprobs=_sampled_logprobs(output),
                version_starts=version_starts(output, first_version),
            ),
            text=text,
            finished=output.finish_reason == "stop",
        )
        for output, text in zip(outputs, texts, strict=True)
    )


def version_starts(output: Any, first_version: int) -> tuple[VersionStart, ...]:
    """The versions that sampled a CompletionOutput, as vLLM labels tokens; without labels all count as first_version.

    first_version, at which the prompt came, counts as the version of the first token in any case: while a completion
    waits for its turn, others of its group may have computed the keys of the prompt with it.
    """
    starts = {0: first_version}
    for span in weight_version_spans(output):
        if int(span.version) > first_version and len(output.token_ids) > 1:
            starts[max(span.start, 1)] = int(span.version)
    return tuple(VersionStart(version=version, start=start) for start, version in starts.items())


def _sampled_logprobs(output: Any) -> np.ndarray:
    sampled = zip(output.token_ids, output.logprobs, strict=True)
    return np.fromiter((entry[token].logprob for token, entry in sampled), dtype=np.float32)
