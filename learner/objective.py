"""Public address of the gated objective: `from learner.objective import gated_objective`."""

from learner.loss.objective import gated_objective

__all__ = ["gated_objective"]
