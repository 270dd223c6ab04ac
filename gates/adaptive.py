"""The temperature that holds a gate's effective update ratio at a target, for one sign of the advantage.

In: the EUR (paper eq. 12) of each optimizer step, and what its deficit 1 - EUR would have been at other taus. Out: the
tau of the next step. Plain arithmetic on numbers; its state between two iterations is tau and a curve a step.

The target is the mean over an iteration's steps, hence a budget of deficits. The first step on fresh data spends
nothing, as every ratio is 1; later ones spend more from step to step, much alike in every iteration but for what is
the batch's own: how far it moves the policy, and how many of its tokens. So the controller remembers the curves
deficit(tau) of past iterations, learns from the first steps of this one how its batch compares with them, tau by tau,
and chooses the tau with which the steps to come spend what is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log10

import numpy as np

POINTS_PER_DECADE = 8  # of tau; between two points log deficit is taken as linear in log tau, right to 1 %
PRIOR_DEFICIT = 0.02  # how much deficit of this iteration weighs as much as what is remembered
# Steps to come make up for those before, but aim at this share of the target's deficit at least and at most: a batch
# that has overspent must not end without any gate, nor a calm one with nearly all of its tokens damped.
SMALLEST_SHARE, LARGEST_SHARE = 0.5, 3.0
NEGLIGIBLE_DEFICIT = 1e-4  # a step with less at tau_max has ratios of 1 but for rounding, which must not move tau
LEAST = 1e-300  # stands for a deficit of 0, whose logarithm is needed


@dataclass(frozen=True, kw_only=True, slots=True)
class EurTarget:
    """What to hold, and how fast tau may move."""

    target_eur: float  # in (0, 1), mean over the steps of an iteration
    smoothing: float  # in (0, 1], weight of the newest iteration in the remembered curves
    max_factor: float  # > 1, tau grows or shrinks by this at most from one step to the next
    tau_min: float
    tau_max: float

    @property
    def taus(self) -> tuple[float, ...]:
        """The taus at which deficits are measured, rising from tau_min to tau_max."""
        num_points = 1 + ceil(POINTS_PER_DECADE * log10(self.tau_max / self.tau_min))
        return tuple(np.geomspace(self.tau_min, self.tau_max, num_points).tolist())


@dataclass(frozen=True, kw_only=True, slots=True)
class TauState:
    """What a checkpoint keeps between two iterations."""

    tau: float
    curves: tuple[tuple[float, ...], ...]  # [steps, taus] deficits; empty before the first iteration has ended


class TauController:
    """Follows the steps of iterations; `tau` holds for the next step."""

    def __init__(self, target: EurTarget, *, tau: float, num_steps: int) -> None:
        """num_steps: optimizer steps of an iteration."""
        self._target = target
        self._log_taus = np.log(target.taus)  # [K]
        self._num_steps = num_steps
        self.tau = tau
        self._remembered: list[np.ndarray] = []  # [K] a step of an iteration
        self._measured: list[np.ndarray | None] = []  # [K] a step of this iteration so far
        self._spent = 0.0  # deficit of this iteration's steps so far

    def observe(self, eur: float | None, deficits: Sequence[float] | None) -> None:
        """Takes a step's EUR and its deficits at the target's taus.

        Both are None where the step had no token of this sign, which counts as on target.
        """
        self._spent += 1.0 - (self._target.target_eur if eur is None else eur)
        self._measured.append(None if deficits is None else np.asarray(deficits, dtype=np.float64))
        if len(self._measured) == self._num_steps:
            self._remember()
        ahead = self._curve_ahead()
        if ahead is not None:
            self._move_to(self._tau_spending(self._budget_ahead(), ahead))

    def state(self) -> TauState:
        """Between two iterations."""
        assert not self._measured, f"{len(self._measured)} steps into an iteration"
        return TauState(tau=self.tau, curves=tuple(tuple(curve.tolist()) for curve in self._remembered))

    def restore(self, state: TauState) -> None:
        """Goes on where another controller of the same target and steps was."""
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
        """Deficit that the steps to come may spend together."""
        deficit = 1.0 - self._target.target_eur
        left = self._num_steps - len(self._measured)
        fair = left * deficit
        return min(max(self._num_steps * deficit - self._spent, SMALLEST_SHARE * fair), LARGEST_SHARE * fair)

    def _curve_ahead(self) -> np.ndarray | None:
        """Deficits [K] expected of the steps to come together, in this iteration or, at its end, in the next.

        None where no ratio has left 1 and is expected to, so that nothing tells which tau would be right.
        """
        done = len(self._measured)
        known = [(step, curve) for step, curve in enumerate(self._measured) if curve is not None]
        if not self._remembered:  # the first iteration: as the last step that tells anything, for want of better
            telling = [curve for _, curve in known if curve[-1] > NEGLIGIBLE_DEFICIT]
            return (self._num_steps - done) * telling[-1] if telling else None
        expected = sum((self._remembered[step] for step, _ in known), PRIOR_DEFICIT)
        found = sum((curve for _, curve in known), PRIOR_DEFICIT)
        ahead: np.ndarray = np.sum(self._remembered[done:], axis=0) * (found / expected)
        return ahead if ahead[-1] > (self._num_steps - done) * NEGLIGIBLE_DEFICIT else None

    def _tau_spending(self, budget: float, ahead: np.ndarray) -> float:
        """The tau within bounds at which the steps to come spend the budget, or the nearest there is."""
        rising = np.maximum.accumulate(np.maximum(ahead, LEAST))
        return float(np.exp(np.interp(np.log(budget), np.log(rising), self._log_taus)))

    def _move_to(self, wanted: float) -> None:
        limit = self._target
        wanted = min(max(wanted, self.tau / limit.max_factor), self.tau * limit.max_factor)
        self.tau = min(max(wanted, limit.tau_min), limit.tau_max)
