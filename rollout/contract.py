"""Data of the generation side: prompts, groups of completions, verdicts on them, and messages of the engines.

Frozen dataclasses with numpy arrays: a group travels as one Ray object, which can be read without torch and vLLM.
docs/architecture.md has the table of what a group is at each stop.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import fsum
from typing import Any, Self

import numpy as np

from transfer.spans import Span


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One problem at one position of the prompt stream.

    Example: position=40, token_ids=[5, 12, 7], text="<|user|>1+1=", reference_answer="2", source="arithmetic".
    """

    position: int  # place in the prompt stream, counted over the whole run; seeds derive from it
    token_ids: np.ndarray  # [P] int32
    text: str
    reference_answer: str
    source: str  # the data set that the problem is from


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSpec:
    """Settings of sampling. Sample i of prompt p has a seed derived from (seed, p, i), wherever it is drawn."""

    num_completions: int
    max_new_tokens: int
    temperature: float  # 0 is greedy
    seed: int
    top_p: float = 1.0  # below 1 in evaluation only: logprobs of a cut distribution would bias the training ratio


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionStart:
    """The first token that a policy version sampled. Example: version=4, start=2 from the third sampled token on."""

    version: int
    start: int  # sampled tokens before it, in the same sequence


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledTokens:
    """One sequence of T tokens, of which the policy sampled C; the same object from the engine to the learner.

    Example: prompt [5, 12], sampled [9, 2]: token_ids=[5, 12, 9, 2], completion_mask=[F, F, T, T], rollout_logprobs=
    [-0.1, -2.3], version_starts=(VersionStart(version=3, start=0),). A second turn makes the mask [F, F, T, T, F, T].
    """

    token_ids: np.ndarray  # [T] int32, the prompt first, the end token included when one was sampled
    completion_mask: np.ndarray  # [T] bool, True where the policy sampled the token
    rollout_logprobs: np.ndarray  # [C] float32, of the sampled tokens under the distribution they were drawn from
    version_starts: tuple[VersionStart, ...]  # versions and starts ascending; the first is that at the prompt's arrival

    @classmethod
    def one_turn(
        cls,
        prompt_ids: np.ndarray,
        sampled_ids: np.ndarray,
        *,
        rollout_logprobs: np.ndarray,
        version_starts: tuple[VersionStart, ...],
    ) -> Self:
        """A prompt ([P] int32) and what was sampled after it ([C] int32)."""
        return cls(
            token_ids=np.concatenate([prompt_ids, sampled_ids]),
            completion_mask=np.arange(len(prompt_ids) + len(sampled_ids)) >= len(prompt_ids),
            rollout_logprobs=rollout_logprobs,
            version_starts=version_starts,
        )

    def __post_init__(self) -> None:
        length, masked = len(self.completion_mask), np.count_nonzero(self.completion_mask)
        if len(self.token_ids) != length or masked != self.num_sampled:
            raise ValueError(
                f"{len(self.token_ids)} tokens, a mask of {length} with {masked} sampled, {self.num_sampled} logprobs: "
                f"need a mask entry a token and a logprob a sampled token"
            )
        if length and self.completion_mask[0]:
            raise ValueError("completion_mask: the first token is sampled, but a sampled token needs one before it")
        starts = self.version_starts
        ascend = all(a.version < b.version and a.start < b.start for a, b in pairwise(starts))
        if not starts or starts[0].start != 0 or not ascend:
            raise ValueError(f"version_starts={starts}: must begin at token 0 and have ascending versions and starts")
        if starts[-1].start >= max(self.num_sampled, 1):
            raise ValueError(f"version_starts={starts}: goes beyond {self.num_sampled} tokens")

    @property
    def num_sampled(self) -> int:
        """C: tokens that the policy sampled."""
        return len(self.rollout_logprobs)

    @property
    def min_policy_version(self) -> int:
        """Lowest version that produced a token of it."""
        return self.version_starts[0].version

    @property
    def max_policy_version(self) -> int:
        """Highest version that produced a token of it."""
        return self.version_starts[-1].version

    def tokens_by_version(self) -> dict[int, int]:
        """Number of tokens that each version sampled."""
        ends = [*(each.start for each in self.version_starts[1:]), self.num_sampled]
        return {
            each.version: end - each.start
            for each, end in zip(self.version_starts, ends, strict=True)
            if end > each.start
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One completion that the policy sampled for a prompt.

    Example: tokens of which [17, 4, 2] were sampled, text="42", finished=True where 2 is an end token.
    """

    tokens: SampledTokens  # tokens of prompt and completion
    text: str  # text of the sampled tokens, tags kept, end token left out
    finished: bool  # False where max_new_tokens cut it off


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptGroup:
    """The G completions of one prompt, in sample order.

    Example: the prompt at position 40 with 8 completions, sampled by engine 1 in generate_s=0.8.
    """

    prompt: Prompt
    completions: tuple[Completion, ...]  # G
    engine_index: int
    generate_s: float  # seconds from submission to the last token


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardComponent:
    """One reward of a completion.

    Example: RewardComponent(name="short", value=0.8, weight=0.1) adds 0.08 to the completion's total.
    """

    name: str  # name of the reward, as in the metric reward/<name>
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
        # fsum rounds once, so that the order of the components does not matter.
        return fsum(component.weight * component.value for component in self.components)

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
    """The few numbers of a group that the driver plans with, so that token data stays out of its loops."""

    position: int  # position of its prompt
    num_tokens: int  # sampled tokens of the group

    @classmethod
    def of(cls, group: PromptGroup) -> "GroupSummary":
        return cls(
            position=group.prompt.position,
            num_tokens=sum(completion.tokens.num_sampled for completion in group.completions),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupRequest:
    """A prompt on its way to an engine.

    Example: ticket=57 for the prompt at position 40, of which sampling wants 8 completions of at most 512 tokens.
    """

    ticket: int  # the fleet's number for it: a prompt of the training and one of an evaluation may share a position
    prompt: Prompt
    sampling: SamplingSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineRoom:
    """Capacity of an engine, fixed at its start."""

    num_sequences: int  # most completions sampled at once
    kv_tokens: int  # tokens that fit into its key/value cache


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineLoad:
    """Load of an engine, by vLLM's own count."""

    num_running: int  # completions
    num_waiting: int  # completions
    kv_usage: float  # share of the key/value cache, 0..1


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedRequest:
    """Notice that a request's group is complete; the group itself travels beside it."""

    ticket: int  # ticket of the GroupRequest
    summary: GroupSummary


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupChunk:
    """One answer of an engine: its load and the groups that have finished, which travel beside it as Ray objects.

    Example: finished has two entries, then two groups follow in this order; it is empty where only the load is new.
    """

    finished: tuple[FinishedRequest, ...]  # notices in the order of the groups
    load: EngineLoad
    num_entered: int  # requests since the start that the load includes for certain


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineHealth:
    """An engine's answer to the question whether it is well: it has work exactly where its steps should go on."""

    process: int  # process id of the actor
    num_steps: int  # steps of vLLM since the start
    is_busy: bool  # whether it has requests that no publish holds up
    has_mixed_weights: bool  # whether a publish broke off; vLLM takes no other one then

    @property
    def progress(self) -> int | None:
        """What changes while it works; None where it has nothing to do."""
        return self.num_steps if self.is_busy else None


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineReceipt:
    """An engine's answer to a publish: the version it now serves and what each of its workers received."""

    engine_index: int
    version: int
    digests: tuple[dict[str, str], ...]  # one dict a worker: parameter group label -> digest; empty if not verified
    paused_s: float  # seconds in which it sampled nothing because of the publish
    spans: tuple[Span, ...] = ()  # work of the engine since its last receipt


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupVerdicts:
    """The verdicts on one PromptGroup, in its completions' order.

    Example: 8 verdicts, timed_out=1 where the grading of one completion met its time limit and gave it zeros.
    """

    verdicts: tuple[RewardVerdict, ...]  # G; zeros where the limit struck before the completion was graded
    timed_out: int  # number of completions without a verdict in time

    @property
    def num_failed(self) -> int:
        """Number of rewards that failed and count as 0."""
        return sum(verdict.num_failed for verdict in self.verdicts)


@dataclass(frozen=True, kw_only=True, slots=True)
class GradedGroup:
    """The G completions of one prompt with their verdicts, in sample order.

    Example: the group of position 40 with 8 verdicts, rewards=[2.0, 0.5, 2.0, 0.0, 0.5, 2.0, 0.5, 0.5].
    """

    group: PromptGroup
    verdicts: tuple[RewardVerdict, ...]  # G
    is_replayed: bool = False  # True where it was read from a recording: another run's policy sampled it

    def __post_init__(self) -> None:
        if len(self.verdicts) != len(self.group.completions):
            raise ValueError(
                f"prompt {self.position}: {len(self.verdicts)} verdicts for {len(self.group.completions)} "
                f"completions; a group needs one each"
            )

    @property
    def position(self) -> int:
        """Position of its prompt in the stream."""
        return self.group.prompt.position

    @property
    def rewards(self) -> np.ndarray:
        """[G] float64."""
        return np.array([verdict.total for verdict in self.verdicts], dtype=np.float64)
