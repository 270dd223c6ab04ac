"""Public address of the advantages: `from learner.advantages import group_advantages`."""

from learner.batches.advantages import group_advantages

__all__ = ["group_advantages"]
