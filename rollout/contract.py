"""What the generation side hands out: prompts in, groups of completions back, verdicts on them.

Frozen dataclasses with numpy arrays: a group travels as one Ray object, and nobody needs torch or vLLM to read it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

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
class RewardComponent:
    """One reward of a completion.

    Example: RewardComponent(name="short", value=0.8, weight=0.1) adds 0.08 to the completion's total.
    """

    name: str  # of the metric reward/<name>
    value: float  # without the weight
    weight: float
    failed: bool = False  # True where the reward gave no value and counts as 0


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardVerdict:
    """All rewards of one completion, with their weights (paper eq. 9).

    Example: components format 1.0, answer 0.0 and short 0.8 with weights 1, 1 and 0.1 have the total 1.08.
    """

    components: tuple[RewardComponent, ...]  # format and answer first; same names in same order throughout a run

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "RewardVerdict":
        """The verdict of which `dataclasses.asdict`, perhaps by way of JSON, gave `plain`."""
        return cls(components=tuple(RewardComponent(**component) for component in plain["components"]))

    @property
    def total(self) -> float:
        """Weighted sum, from which advantages are computed."""
        parts = [component.weight * component.value for component in self.components]
        # Own rewards are added up before they join format and answer: another grouping rounds differently.
        return sum(parts[:2]) + sum(parts[2:])

    @property
    def values(self) -> dict[str, float]:
        """Unweighted values by name."""
        return {component.name: component.value for component in self.components}

    @property
    def num_failed(self) -> int:
        """Number of rewards that failed and count as 0."""
        return sum(component.failed for component in self.components)

    def value(self, name: str) -> float:
        """Unweighted value of one reward; KeyError where the run has no reward of this name."""
        return self.values[name]


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
class GroupChunk:
    """What goes with finished groups on their way back: they travel beside it, one Ray object each."""

    tickets: tuple[int, ...]  # of the requests; empty where only the load is told
    summaries: tuple[GroupSummary, ...]  # in the same order
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
        """Number of rewards that failed and count as 0."""
        return sum(verdict.num_failed for verdict in self.verdicts)
