"""The learning rate of each optimizer step of a run. Pure; imports no torch."""

from typing import Literal


def lr_at(step: int, *, total_steps: int, lr: float, schedule: Literal["linear", "constant"]) -> float:
    """Learning rate of optimizer step `step`, counted from 0 over the whole run, no warm-up.

    linear: lr * (1 - step / total_steps), so the first step uses lr and the last lr / total_steps (paper, appendix A).
    Raises ValueError outside 0 <= step < total_steps.
    """
    if not 0 <= step < total_steps:
        raise ValueError(f"step={step}: must lie in [0, {total_steps}), the optimizer steps of the run")
    return lr * (1.0 - step / total_steps) if schedule == "linear" else lr
