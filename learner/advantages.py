"""Advantages of one group: its rewards, centred and scaled.

In: the rewards of the completions of one prompt. Out: one advantage for each. Knows nothing of tokens or of other
groups.
"""

import torch
from torch import Tensor

STD_FLOOR = 1e-6  # added to the standard deviation, so that a tiny spread of rewards cannot blow up the quotient


def group_advantages(rewards: Tensor) -> Tensor:
    """(R - mean) / (std + 1e-6) within one group, [G] -> [G]; exactly zero for all where the rewards are all equal.

    The standard deviation is the sample's (divided by G - 1), as in TRL and verl; the paper writes std(R) and leaves it
    open. Keeps the rewards' dtype, float32 for integers and half precisions. Raises ValueError unless rewards is
    1-dimensional and not empty.
    """
    if rewards.ndim != 1 or len(rewards) == 0:
        raise ValueError(f"rewards of shape {tuple(rewards.shape)}: must be one group, [G] with G >= 1")
    rewards = rewards.to(torch.promote_types(rewards.dtype, torch.float32))
    if len(rewards) == 1:
        return torch.zeros_like(rewards)
    advantages = (rewards - rewards.mean()) / (rewards.std(correction=1) + STD_FLOOR)
    # a rounded mean can differ from rewards that are all equal
    return torch.where((rewards == rewards[0]).all(), torch.zeros_like(rewards), advantages)
