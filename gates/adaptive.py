"""The temperature that brings a gate's effective update ratio to a target.

In: the tau in force and the EUR (paper eq. 12) that it gave. Out: the next tau. Pure arithmetic on numbers, for one
sign of the advantage; knows nothing of iterations, and has no state but tau itself.
"""

from dataclasses import dataclass
from math import inf, sqrt


@dataclass(frozen=True, kw_only=True, slots=True)
class EurController:
    """Moves tau towards target_eur, by max_factor at most each time, between tau_min and tau_max."""

    target_eur: float  # in (0, 1)
    max_factor: float  # > 1
    tau_min: float
    tau_max: float

    def next_tau(self, tau: float, *, eur: float) -> float:
        """The tau to use next, where tau gave eur (in [0, 1]).

        Near ratio 1 every smooth slope is 1 - c (tau (r - 1))^2, so the deficit 1 - EUR grows as tau^2, and the
        quotient of wanted and present deficit gives tau in one go. Further out slopes fall more slowly than that: the
        correction is then too small, never too large, and is repeated.
        """
        deficit = 1.0 - eur
        wanted = sqrt((1.0 - self.target_eur) / deficit) if deficit > 0.0 else inf
        factor = min(max(wanted, 1.0 / self.max_factor), self.max_factor)
        return min(max(tau * factor, self.tau_min), self.tau_max)
