"""Graded groups in, the learner's TrainBatch out: advantages within each group, one sample a completion."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from learner.batches.advantages import ADVANTAGES, overlong_penalty
from learner.contract import TrainBatch, TrainSample
from orchestration.stream.graded_groups import GradedGroup
from rollout.contract import Completion, PromptGroup


def to_train_batch(
    groups: Sequence[GradedGroup], *, policy_version: int, objective: ObjectiveConfig, max_new_tokens: int
) -> TrainBatch:
    """One TrainSample a completion, in prompt and sample order.

    policy_version is the learner's at consumption; staleness counts from the lowest version that produced a token.
    max_new_tokens: the longest that a completion may be.
    """
    samples = []
    for group_index, graded in enumerate(groups):
        rewards = _rewards(graded, objective, max_new_tokens=max_new_tokens)
        advantages = ADVANTAGES[objective.advantage](rewards).tolist()
        for completion, advantage in zip(graded.group.completions, advantages, strict=True):
            samples.append(
                _sample(
                    graded.group.prompt.token_ids,
                    completion,
                    group_index=group_index,
                    advantage=advantage,
                    staleness=policy_version - completion.min_policy_version,
                    is_replayed=graded.is_replayed,
                )
            )
    return TrainBatch(samples=tuple(samples), num_groups=len(groups))


def to_scoring_batch(groups: Sequence[PromptGroup]) -> TrainBatch:
    """The same sequences for forward passes alone, before there are rewards: advantage and staleness are 0."""
    samples = [
        _sample(group.prompt.token_ids, completion, group_index=group_index, advantage=0.0, staleness=0)
        for group_index, group in enumerate(groups)
        for completion in group.completions
    ]
    return TrainBatch(samples=tuple(samples), num_groups=len(groups))


def _sample(
    prompt_ids: np.ndarray,
    completion: Completion,
    *,
    group_index: int,
    advantage: float,
    staleness: int,
    is_replayed: bool = False,
) -> TrainSample:
    return TrainSample(
        group_index=group_index,
        token_ids=np.concatenate([prompt_ids, completion.token_ids]),
        prompt_length=len(prompt_ids),
        rollout_logprobs=completion.rollout_logprobs,
        advantage=advantage,
        staleness=staleness,
        finished=completion.finished,
        is_replayed=is_replayed,
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
    lengths = torch.tensor([len(completion.token_ids) for completion in graded.group.completions])
    return rewards + overlong_penalty(lengths, max_new_tokens=max_new_tokens, buffer=objective.overlong_buffer)
