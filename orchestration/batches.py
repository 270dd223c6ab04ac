"""Graded groups in, the learner's TrainBatch out: advantages within each group, one sample a completion."""

from collections.abc import Sequence

import numpy as np
import torch

from learner.advantages import group_advantages
from learner.contract import TrainBatch, TrainSample
from orchestration.buffer import GradedGroup


def to_train_batch(groups: Sequence[GradedGroup], *, policy_version: int) -> TrainBatch:
    """One TrainSample a completion, in prompt and sample order.

    policy_version is the learner's at consumption; staleness counts from the lowest version that produced a token.
    """
    samples = []
    for group_index, graded in enumerate(groups):
        prompt_ids = graded.group.prompt.token_ids
        advantages = group_advantages(torch.from_numpy(graded.rewards)).tolist()
        for completion, advantage in zip(graded.group.completions, advantages, strict=True):
            samples.append(
                TrainSample(
                    group_index=group_index,
                    token_ids=np.concatenate([prompt_ids, completion.token_ids]),
                    prompt_length=len(prompt_ids),
                    rollout_logprobs=completion.rollout_logprobs,
                    advantage=advantage,
                    staleness=policy_version - completion.min_policy_version,
                    is_replayed=graded.is_replayed,
                )
            )
    return TrainBatch(samples=tuple(samples), num_groups=len(groups))
