"""Whether a grader answers and gets on, judged by the time in which its driver was awake.

In: seconds as they pass, and what the grader answers. Out: a complaint. Knows neither Ray nor a clock.
"""

from rollout.rewards.child import CHILD_START_TIMEOUT_S, CLOSE_TIMEOUT_S

START_TIMEOUT_S = 180.0  # limit for a first answer: a new process of Ray's on a busy machine
ANSWER_MARGIN_S = 5.0  # time beyond graders.timeout_s in which a grader that only waits for its child answers
# A completion may cost a child its life, and the next one has to be ready before it counts as progress.
PROGRESS_MARGIN_S = CHILD_START_TIMEOUT_S + 2 * CLOSE_TIMEOUT_S


class Watch:
    """The time since one grader's last answer, and since its last progress."""

    def __init__(self, *, timeout_s: float) -> None:
        """timeout_s: limit for one completion."""
        self._timeout_s = timeout_s
        self._progress: int | None = None  # None before the first answer
        self.silent_s = 0.0
        self._stalled_s = 0.0

    def heard(self, progress: int) -> None:
        """The grader has answered, with its number for progress."""
        self.silent_s = 0.0
        if progress != self._progress:
            self._stalled_s = 0.0
        self._progress = progress

    def finished(self) -> None:
        """The grader has graded a group."""
        self.silent_s = self._stalled_s = 0.0

    def complaint(self, passed_s: float) -> str | None:
        """Adds seconds in which the grader had work; what is wrong with it then."""
        self.silent_s += passed_s
        self._stalled_s += passed_s
        limit_s = START_TIMEOUT_S if self._progress is None else self._timeout_s + ANSWER_MARGIN_S
        if self.silent_s >= limit_s:
            return f"has not {'started' if self._progress is None else 'answered'} for {limit_s:g} s"
        limit_s = max(START_TIMEOUT_S, self._timeout_s + PROGRESS_MARGIN_S)
        return f"has graded nothing for {limit_s:g} s" if self._stalled_s >= limit_s else None
