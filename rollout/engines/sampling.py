"""How completions are drawn, in vLLM's terms: the seed of a request and its SamplingParams.

In: a prompt and a SamplingSpec. Out: what vLLM is given with the request.
"""

import hashlib
from typing import Any

from rollout.contract import Prompt, SamplingSpec

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
