"""From vLLM's answer to one request to the completions of its prompt.

In: a RequestOutput, the prompt, the tokenizer, the version at which the prompt came. Out: Completions in sample order.
Reads attributes of vLLM's objects only and imports nothing of vLLM.
"""

from typing import Any

import numpy as np

from rollout.contract import Completion, Prompt, SampledTokens, VersionStart
from rollout.engines.vllm_versions import weight_version_spans


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
