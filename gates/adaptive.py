"""The temperature that holds a gate's effective update ratio at a target, for one sign of the advantage.

In: the EUR (paper eq. 12) of each optimizer step. Out: the tau of the next step. Plain arithmetic on numbers; knows
nothing of tensors, and its state between two iterations is tau and one number a step.

Near ratio 1 every smooth slope is 1 - c (tau (r - 1))^2, so a step's deficit 1 - EUR is curvature * tau^2, where the
curvature tells how far the policy has moved from the one that sampled. It is 0 in the first step on fresh data and
grows from step to step, much alike in every iteration but for a factor that is the batch's own. So the controller
remembers the curvatures of past iterations, learns the factor from the first steps of this one, and chooses the tau
with which the steps to come bring the iteration's mean EUR to the target. Far from ratio 1 slopes fall more slowly than
assumed; the next step sees that and corrects it.
"""

from dataclasses import dataclass
from math import sqrt

LARGEST_SCALE = 4.0  # a batch's factor beyond this, or below its inverse, is noise of small deficits
SMALLEST_BUDGET = 0.05  # share of the iteration's deficit that its last steps may always have: tau cannot reach 0


@dataclass(frozen=True, kw_only=True, slots=True)
class EurTarget:
    """What to hold, and how fast tau may move."""

    target_eur: float  # in (0, 1), mean over the steps of an iteration
    smoothing: float  # in (0, 1], weight of the newest iteration in the remembered curvatures
    max_factor: float  # > 1, tau grows or shrinks by this at most from one step to the next
    tau_min: float
    tau_max: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TauState:
    """What a checkpoint keeps between two iterations."""

    tau: float
    curvatures: tuple[float, ...]  # one a step of an iteration; empty before the first has ended


class TauController:
    """Follows the steps of iterations; `tau` holds for the next step."""

    def __init__(self, target: EurTarget, *, tau: float, num_steps: int) -> None:
        """num_steps: optimizer steps of an iteration."""
        self._target = target
        self._num_steps = num_steps
        self.tau = tau
        self._remembered: tuple[float, ...] = ()
        self._measured: list[float] = []  # curvatures of this iteration's steps so far
        self._spent = 0.0  # deficit of this iteration's steps so far

    def observe(self, eur: float | None) -> None:
        """Takes the EUR of a step; None where it had no token of this sign, which counts as on target."""
        deficit = 1.0 - (self._target.target_eur if eur is None else eur)
        self._spent += deficit
        self._measured.append(deficit / self.tau**2)
        if len(self._measured) == self._num_steps:
            self._remember()
        ahead = self._curvature_ahead()
        if ahead > 0.0:  # else no ratio has left 1, and nothing tells which tau would be right
            whole = self._num_steps * (1.0 - self._target.target_eur)
            self._move_to(sqrt(max(whole - self._spent, SMALLEST_BUDGET * whole) / ahead))

    def state(self) -> TauState:
        """Between two iterations."""
        assert not self._measured, f"{len(self._measured)} steps into an iteration"
        return TauState(tau=self.tau, curvatures=self._remembered)

    def restore(self, state: TauState) -> None:
        """Goes on where another controller was."""
        self.tau, self._remembered = state.tau, state.curvatures

    def _remember(self) -> None:
        old, new = self._remembered or self._measured, self._measured
        share = self._target.smoothing
        self._remembered = tuple(was + share * (now - was) for was, now in zip(old, new, strict=True))
        self._measured, self._spent = [], 0.0

    def _curvature_ahead(self) -> float:
        """Sum of the curvatures expected of the steps to come, in this iteration or, at its end, in the next."""
        done = len(self._measured)
        if not self._remembered:  # the first iteration: as the last step, for want of better
            return (self._num_steps - done) * self._measured[-1]
        expected = sum(self._remembered[:done])
        scale = sum(self._measured) / expected if expected > 0.0 else 1.0
        return min(max(scale, 1.0 / LARGEST_SCALE), LARGEST_SCALE) * sum(self._remembered[done:])

    def _move_to(self, wanted: float) -> None:
        limit = self._target
        wanted = min(max(wanted, self.tau / limit.max_factor), self.tau * limit.max_factor)
        self.tau = min(max(wanted, limit.tau_min), limit.tau_max)
