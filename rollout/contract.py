"""What the generation side hands out: prompts in, groups of completions back, verdicts on them.

Frozen dataclasses with numpy arrays: a group travels as one Ray object, and nobody needs torch or vLLM to read it.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from transfer.spans import Span


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One problem at one position of the prompt stream."""

    position: int  # in the prompt stream, counted over the whole run; seeds derive from it
    token_ids: np.ndarray  # [P] int32
    text: str
    reference_answer: str
    source: str  # the data set that the problem is from


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSpec:
    """How completions are drawn. Sample i of prompt p has a seed derived from (seed, p, i), wherever it is drawn."""

    num_completions: int
    max_new_tokens: int
    temperature: float  # 0 is greedy
    seed: int
    top_p: float = 1.0  # below 1 in evaluation only: logprobs of a cut distribution would bias the training ratio


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One sampled continuation.

    Example: token_ids=[17, 4, 9, 2], rollout_logprobs=[-0.1, -2.3, -0.7, 0.0], finished=True where 2 is an end token.
    version_starts=((3, 0), (4, 2)) where weights of version 4 arrived before the third token was sampled.
    """

    token_ids: np.ndarray  # [C] int32, the end token included when one was sampled
    rollout_logprobs: np.ndarray  # [C] float32, of the sampled tokens under the distribution they were drawn from
    text: str  # decoded, tags kept, end token left out
    finished: bool  # False where max_new_tokens cut it off
    # (policy version, index of its first token), both ascending; the first is the version at which the prompt came
    version_starts: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        versions, starts = zip(*self.version_starts, strict=True) if self.version_starts else ((), ())
        if starts[:1] != (0,) or not _ascend(versions) or not _ascend(starts):
            raise ValueError(
                f"version_starts={self.version_starts}: must begin at token 0 and have ascending versions and indices"
            )
        if starts[-1] >= max(len(self.token_ids), 1):
            raise ValueError(f"version_starts={self.version_starts}: goes beyond {len(self.token_ids)} tokens")

    @property
    def min_policy_version(self) -> int:
        """Lowest version that produced a token of it."""
        return self.version_starts[0][0]

    @property
    def max_policy_version(self) -> int:
        """Highest."""
        return self.version_starts[-1][0]

    def tokens_by_version(self) -> dict[int, int]:
        """How many tokens each version produced."""
        starts = [start for _, start in self.version_starts]
        ends = [*starts[1:], len(self.token_ids)]
        return {
            version: end - start for (version, start), end in zip(self.version_starts, ends, strict=True) if end > start
        }


def _ascend(numbers: tuple[int, ...]) -> bool:
    return all(before < after for before, after in pairwise(numbers))


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptGroup:
    """The G completions of one prompt, in sample order."""

    prompt: Prompt
    completions: tuple[Completion, ...]  # G
    engine_index: int
    generate_s: float  # from submission to the last token, seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardVerdict:
    """The rewards of one completion (paper eq. 9-11) and their weights: what it was trained on is complete in it."""

    format: float
    answer: float
    extra: dict[str, float] = field(default_factory=dict)  # rewards of the user's own, by name
    format_weight: float = 1.0
    answer_weight: float = 1.0
    extra_weights: dict[str, float] = field(default_factory=dict)  # by name, as extra
    num_failed: int = 0  # extra rewards that failed and count as 0

    @property
    def total(self) -> float:
        """The weighted sum, of which advantages are made."""
        own = sum(self.extra_weights[name] * value for name, value in self.extra.items())
        return self.format_weight * self.format + self.answer_weight * self.answer + own


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupSummary:
    """What the driver needs of a group to plan with; a few numbers, so that token data stays out of its loops."""

    position: int
    engine_index: int
    num_tokens: int  # completion tokens of the group
    min_policy_version: int
    max_policy_version: int
    generate_s: float

    @classmethod
    def of(cls, group: PromptGroup) -> "GroupSummary":
        return cls(
            position=group.prompt.position,
            engine_index=group.engine_index,
            num_tokens=sum(len(completion.token_ids) for completion in group.completions),
            min_policy_version=min(completion.min_policy_version for completion in group.completions),
            max_policy_version=max(completion.max_policy_version for completion in group.completions),
            generate_s=group.generate_s,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupRequest:
    """A prompt on its way to an engine."""

    ticket: int  # the fleet's number for it: a prompt of the training and one of an evaluation may share a position
    prompt: Prompt
    sampling: SamplingSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRoom:
    """What an engine holds at most, from its start on."""

    num_sequences: int  # completions sampled at once
    kv_tokens: int  # of its key/value cache


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineLoad:
    """How full an engine is, by vLLM's own count."""

    num_running: int  # completions
    num_waiting: int  # completions
    kv_usage: float  # share of the key/value cache, 0..1


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedRequest:
    """What the driver is told of a request whose group is complete; the group itself travels beside it."""

    ticket: int  # of the GroupRequest
    summary: GroupSummary


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupChunk:
    """One answer of an engine: what has finished and how full it is. The groups travel beside it, one Ray object each.

    Example: finished has two entries, then two groups follow in this order; it is empty where only the load is told.
    """

    finished: tuple[FinishedRequest, ...]  # in the order of the groups
    load: EngineLoad
    num_entered: int  # requests, counted from the start, that the load includes for certain


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineReceipt:
    """An engine's answer to a publish: the version it now serves and what each of its workers received."""

    engine_index: int
    version: int
    digests: tuple[dict[str, str], ...]  # one dict a worker: parameter group label -> digest; empty if not verified
    paused_s: float  # for how long it sampled nothing because of the publish
    spans: tuple[Span, ...] = ()  # what the engine did since its last receipt


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupVerdicts:
    """The verdicts on one PromptGroup, in its completions' order."""

    verdicts: tuple[RewardVerdict, ...]  # G; zeros where the limit struck before the completion was graded
    timed_out: int  # how many those are

    @property
    def num_failed(self) -> int:
        """Extra rewards that failed and count as 0."""
        return sum(verdict.num_failed for verdict in self.verdicts)
