"""Controller of a gate's temperature that holds the effective update ratio at a target, for one sign of the advantage.

In: the EUR (paper eq. 12) of each optimizer step, and its deficit 1 - EUR at other taus. Out: the tau of the next step.
Plain arithmetic on numbers; its state between two iterations is tau and one curve for each step of an iteration.

The target is a mean over the steps of an iteration, which gives the steps a common budget of deficits. The first step
on fresh data has deficit 0, because every ratio is 1; the deficit grows from step to step. The growth is similar in
every iteration, but its size depends on the batch: how far the batch moves the policy, and in how many tokens. So the
controller remembers the curves deficit(tau) of past iterations. From the first steps of an iteration it estimates how
the batch compares with them, tau by tau. It then chooses the tau at which the remaining steps use up the budget.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log10

import numpy as np

POINTS_PER_DECADE = 8  # taus a decade; interpolating log deficit linearly in log tau is then right to 1 %
PRIOR_DEFICIT = 0.02  # deficit of this iteration at which it weighs as much as the remembered curves
# Least and largest share of the target's deficit at which the remaining steps aim. Without the least share a batch
# whose first steps exceeded the budget would end with no gate; without the largest, one that stayed far below it would
# end with nearly all tokens damped.
SMALLEST_SHARE, LARGEST_SHARE = 0.5, 3.0
NEGLIGIBLE_DEFICIT = 1e-4  # deficit at tau_max below which all ratios are 1 up to rounding, and tau must not change
LEAST = 1e-300  # value in place of a deficit of 0, whose logarithm is needed


@dataclass(frozen=True, kw_only=True, slots=True)
class EurTarget:
    """The target EUR, and the limits within which tau may change."""

    target_eur: float  # EUR to hold, in (0, 1), mean over the steps of an iteration
    smoothing: float  # weight of the newest iteration in the remembered curves, in (0, 1]
    max_factor: float  # largest factor by which tau grows or shrinks from one step to the next, > 1
    tau_min: float
    tau_max: float

    @property
    def taus(self) -> tuple[float, ...]:
        """Taus at which deficits are measured, rising from tau_min to tau_max."""
        num_points = 1 + ceil(POINTS_PER_DECADE * log10(self.tau_max / self.tau_min))
        return tuple(np.geomspace(self.tau_min, self.tau_max, num_points).tolist())


@dataclass(frozen=True, kw_only=True, slots=True)
class TauState:
    """State of a controller between two iterations, for a checkpoint."""

    tau: float
    curves: tuple[tuple[float, ...], ...]  # [steps, taus] remembered deficits; empty before the first iteration ends


class TauController:
    """Adapts `tau`, the temperature of the next step, to the steps observed so far."""

    def __init__(self, target: EurTarget, *, tau: float, num_steps: int) -> None:
        """num_steps: optimizer steps of an iteration."""
        self._target = target
        self._log_taus = np.log(target.taus)  # [K]
        self._num_steps = num_steps
        self.tau = tau
        self._remembered: list[np.ndarray] = []  # [K] deficits, for each step of an iteration
        self._measured: list[np.ndarray | None] = []  # [K] deficits, for each step of this iteration so far
        self._spent = 0.0  # deficit of this iteration's steps so far

    def observe(self, eur: float | None, deficits: Sequence[float] | None) -> None:
        """Records a step's EUR and its deficits at the target's taus, and adapts tau.

        Both are None if the step had no token of this sign; such a step counts as on target.
        """
        self._spent += 1.0 - (self._target.target_eur if eur is None else eur)
        self._measured.append(None if deficits is None else np.asarray(deficits, dtype=np.float64))
        if len(self._measured) == self._num_steps:
            self._remember()
        ahead = self._curve_ahead()
        if ahead is not None:
            self._move_to(self._tau_spending(self._budget_ahead(), ahead))

    def state(self) -> TauState:
        """The state between two iterations."""
        assert not self._measured, f"{len(self._measured)} steps into an iteration"
        return TauState(tau=self.tau, curves=tuple(tuple(curve.tolist()) for curve in self._remembered))

    def restore(self, state: TauState) -> None:
        """Continues from the state of another controller of the same target and number of steps."""
        sizes = [len(curve) for curve in state.curves]
        assert sizes in ([], [len(self._log_taus)] * self._num_steps), sizes
        self.tau, self._remembered = state.tau, [np.array(curve) for curve in state.curves]

    def _remember(self) -> None:
        known = [curve for curve in self._measured if curve is not None]
        if known:
            old = self._remembered or [np.mean(known, axis=0) if curve is None else curve for curve in self._measured]
            share = self._target.smoothing
            self._remembered = [
                was if now is None else was + share * (now - was) for was, now in zip(old, self._measured, strict=True)
            ]
        self._measured, self._spent = [], 0.0

    def _budget_ahead(self) -> float:
        """Deficit that the remaining steps may have together."""
        deficit = 1.0 - self._target.target_eur
        left = self._num_steps - len(self._measured)
        fair = left * deficit
        return min(max(self._num_steps * deficit - self._spent, SMALLEST_SHARE * fair), LARGEST_SHARE * fair)

    def _curve_ahead(self) -> np.ndarray | None:
        """Expected deficits [K], summed over the remaining steps of this iteration or, at its end, over the next one's.

        None if no ratio has left 1 and none is expected to, so that no tau can be chosen.
        """
        done = len(self._measured)
        known = [(step, curve) for step, curve in enumerate(self._measured) if curve is not None]
        if not self._remembered:  # in the first iteration, as the last step whose ratios have left 1
            moved = [curve for _, curve in known if curve[-1] > NEGLIGIBLE_DEFICIT]
            return (self._num_steps - done) * moved[-1] if moved else None
        expected = sum((self._remembered[step] for step, _ in known), PRIOR_DEFICIT)
        found = sum((curve for _, curve in known), PRIOR_DEFICIT)
        ahead: np.ndarray = np.sum(self._remembered[done:], axis=0) * (found / expected)
        return ahead if ahead[-1] > (self._num_steps - done) * NEGLIGIBLE_DEFICIT else None

    def _tau_spending(self, budget: float, ahead: np.ndarray) -> float:
        """The tau within bounds at which the remaining steps use up the budget, or the nearest bound."""
        rising = np.maximum.accumulate(np.maximum(ahead, LEAST))
        return float(np.exp(np.interp(np.log(budget), np.log(rising), self._log_taus)))

    def _move_to(self, wanted: float) -> None:
        limit = self._target
        wanted = min(max(wanted, self.tau / limit.max_factor), self.tau * limit.max_factor)
        self.tau = min(max(wanted, limit.tau_min), limit.tau_max)
