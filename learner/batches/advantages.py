"""Advantages of one group: its rewards, centred and perhaps scaled; and what an overlong completion costs.

In: the rewards of the completions of one prompt, or their lengths. Out: one number for each. Knows nothing of tokens or
of other groups.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

STD_FLOOR = 1e-6  # added to the standard deviation, so that a tiny spread of rewards cannot blow up the quotient


def group_advantages(rewards: Tensor) -> Tensor:
    """(R - mean) / (std + 1e-6) within one group, [G] -> [G]; exactly zero for all where the rewards are all equal.

    The standard deviation is the sample's (divided by G - 1), as in TRL and verl; the paper writes std(R) and leaves it
    open. Keeps the rewards' dtype, float32 for integers and half precisions. Raises ValueError unless rewards is
    1-dimensional and not empty.
    """
    return _zero_where_all_equal(rewards, lambda r: (r - r.mean()) / (r.std(correction=1) + STD_FLOOR))


def centred_advantages(rewards: Tensor) -> Tensor:
    """R - mean within one group (Dr. GRPO, arXiv 2503.20783), otherwise as group_advantages."""
    return _zero_where_all_equal(rewards, lambda r: r - r.mean())


def leave_one_out_advantages(rewards: Tensor) -> Tensor:
    """R_i - mean of the group's other rewards (RLOO, arXiv 2402.14740), otherwise as group_advantages."""
    return _zero_where_all_equal(rewards, lambda r: r - (r.sum() - r) / (len(r) - 1))


ADVANTAGES: Mapping[str, Callable[[Tensor], Tensor]] = {  # functions by objective.advantage
    "group_std": group_advantages,
    "group_mean": centred_advantages,
    "leave_one_out": leave_one_out_advantages,
}


def overlong_penalty(lengths: Tensor, *, max_new_tokens: int, buffer: int) -> Tensor:
    """Addition to a reward by DAPO's soft overlong punishment (arXiv 2503.14476 eq. 13), [G] lengths -> [G] float64.

    0 up to max_new_tokens - buffer tokens, from there down in a line to -1 at max_new_tokens.
    """
    expected = max_new_tokens - buffer
    return -((lengths.double() - expected) / buffer).clamp(0.0, 1.0)


def _zero_where_all_equal(rewards: Tensor, advantages_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Exactly zero where a rounded mean could differ from rewards that are all equal; and for a group of one."""
    if rewards.ndim != 1 or len(rewards) == 0:
        raise ValueError(f"rewards of shape {tuple(rewards.shape)}: must be one group, [G] with G >= 1")
    rewards = rewards.to(torch.promote_types(rewards.dtype, torch.float32))
    if len(rewards) == 1:
        return torch.zeros_like(rewards)
    return torch.where((rewards == rewards[0]).all(), torch.zeros_like(rewards), advantages_of(rewards))
