"""Public address of the comparison of answers: `from rollout.grading import is_equivalent`."""

from rollout.rewards.grading import is_equivalent

__all__ = ["is_equivalent"]
