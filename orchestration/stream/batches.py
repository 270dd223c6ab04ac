"""Graded groups in, the learner's TrainBatch out: advantages within each group, one sample a completion."""

from collections.abc import Sequence

import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from learner.batches.advantages import ADVANTAGES, overlong_penalty
from learner.contract import TrainBatch, TrainSample
from rollout.contract import GradedGroup, PromptGroup


def to_train_batch(
    groups: Sequence[GradedGroup], *, policy_version: int, objective: ObjectiveConfig, max_new_tokens: int
) -> TrainBatch:
    """One TrainSample a completion, in prompt and sample order.

    policy_version is the learner's at consumption; staleness counts from the lowest version that produced a token.
    max_new_tokens: the longest that a completion may be.
    """
    samples: list[TrainSample] = []
    for graded in groups:
        rewards = _rewards(graded, objective, max_new_tokens=max_new_tokens)
        advantages = ADVANTAGES[objective.advantage](rewards).tolist()
        samples += [
            TrainSample(
                position=graded.position,
                tokens=completion.tokens,
                advantage=advantage,
                staleness=policy_version - completion.tokens.min_policy_version,
                finished=completion.finished,
                is_replayed=graded.is_replayed,
            )
            for completion, advantage in zip(graded.group.completions, advantages, strict=True)
        ]
    return TrainBatch(samples=tuple(samples))


def to_scoring_batch(groups: Sequence[PromptGroup]) -> TrainBatch:
    """The same sequences for forward passes alone, before there are rewards: advantage and staleness are 0."""
    return TrainBatch(
        samples=tuple(
            TrainSample(
                position=group.prompt.position,
                tokens=completion.tokens,
                advantage=0.0,
                staleness=0,
                finished=completion.finished,
            )
            for group in groups
            for completion in group.completions
        )
    )


def has_gradient(graded: GradedGroup, objective: ObjectiveConfig, *, max_new_tokens: int) -> bool:
    """Whether advantages differ within the group: where all rewards are equal they are 0, and it teaches nothing."""
    rewards = _rewards(graded, objective, max_new_tokens=max_new_tokens)
    return bool((rewards != rewards[0]).any())


def _rewards(graded: GradedGroup, objective: ObjectiveConfig, *, max_new_tokens: int) -> Tensor:
    """[G] float64: the graders' rewards, lowered for overlong completions where asked."""
    rewards = torch.from_numpy(graded.rewards)
    if objective.overlong != "punish":
        return rewards
    lengths = torch.tensor([completion.tokens.num_sampled for completion in graded.group.completions])
    return rewards + overlong_penalty(lengths, max_new_tokens=max_new_tokens, buffer=objective.overlong_buffer)
