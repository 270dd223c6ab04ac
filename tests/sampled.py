"""Sampled tokens for tests, and one turn's prompt length, which the product does not know."""

from collections.abc import Sequence

import numpy as np

from rollout.contract import SampledTokens, VersionStart


def versions(*pairs: tuple[int, int]) -> tuple[VersionStart, ...]:
    """From (version, start) pairs."""
    return tuple(VersionStart(version=version, start=start) for version, start in pairs)


def one_turn(
    prompt_ids: Sequence[int] | np.ndarray,
    sampled_ids: Sequence[int] | np.ndarray,
    *,
    logprobs: np.ndarray | None = None,
    starts: tuple[VersionStart, ...] = versions((0, 0)),
) -> SampledTokens:
    """A prompt and what was sampled after it; logprobs of 0 unless given."""
    return SampledTokens.one_turn(
        np.asarray(prompt_ids, dtype=np.int32),
        np.asarray(sampled_ids, dtype=np.int32),
        rollout_logprobs=np.zeros(len(sampled_ids), dtype=np.float32) if logprobs is None else logprobs,
        version_starts=starts,
    )


def several_turns(mask: Sequence[int], *, seed: int = 0, vocabulary: int = 11) -> SampledTokens:
    """Random tokens and logprobs under a mask such as [0, 0, 1, 1, 0, 1]."""
    rng = np.random.default_rng(seed)
    return SampledTokens(
        token_ids=rng.integers(vocabulary, size=len(mask)).astype(np.int32),
        completion_mask=np.array(mask, dtype=bool),
        rollout_logprobs=-rng.random(sum(mask)).astype(np.float32) - 2.0,
        version_starts=versions((0, 0)),
    )


def prompt_length(tokens: SampledTokens) -> int:
    """Tokens before the first sampled one."""
    return int(tokens.completion_mask.argmax())
