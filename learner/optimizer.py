"""Learning rate and AdamW for the policy.

In: the learner's configuration and the policy's parameters. Out: the learning rate of a step; a torch AdamW. Knows
nothing of DeepSpeed, which wraps the optimizer built here.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from learner.spec import LearnerSpec


def lr_at(step: int, *, total_steps: int, lr: float, schedule: Literal["linear", "constant"]) -> float:
    """Learning rate of optimizer step `step`, counted from 0 over the whole run, no warm-up.

    linear: lr * (1 - step / total_steps), so the first step uses lr and the last lr / total_steps (paper, appendix A).
    Raises ValueError outside 0 <= step < total_steps.
    """
    if not 0 <= step < total_steps:
        raise ValueError(f"step={step}: must lie in [0, {total_steps}), the optimizer steps of the run")
    return lr * (1.0 - step / total_steps) if schedule == "linear" else lr


def set_lr(optimizer: torch.optim.Optimizer, spec: LearnerSpec, *, step: int) -> float:
    """Gives the optimizer the learning rate of step `step` of the run, and returns it."""
    learner = spec.learner
    lr = lr_at(step, total_steps=spec.total_steps, lr=learner.lr, schedule=learner.lr_schedule)
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


def adamw_groups(parameters: Iterable[nn.Parameter], *, weight_decay: float) -> list[dict]:
    """Parameter groups of AdamW: matrices decay, vectors (norms, biases) do not; one group where nothing decays."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if weight_decay == 0.0:
        return [{"params": trained, "weight_decay": 0.0}]
    matrices = [parameter for parameter in trained if parameter.ndim >= 2]
    vectors = [parameter for parameter in trained if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_adamw(
    parameters: Iterable[nn.Parameter], *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over adamw_groups; set_lr gives it the learning rate of each step."""
    groups = adamw_groups(parameters, weight_decay=weight_decay)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)
