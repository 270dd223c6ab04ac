"""How far generation may run ahead of the learner.

In: the version published last. Out: how many prompts may have been sent to the engines. Knows neither engines nor time.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Admission:
    """The hard bound on staleness: a prompt whose group could be too old when it is consumed is not generated yet.

    Iteration k trains the groups admitted as number k*n up to (k+1)*n - 1 at version k. They are admitted once version
    k - max_staleness is published, so that no token of theirs is more than max_staleness versions old and nothing that
    was generated has to be thrown away. (Batches in another order: finished_order.py.)
    """

    prompts_per_iteration: int
    max_staleness: int  # policy versions

    def allowed(self, published_version: int) -> int:
        """How many prompts, counted from the start of the run, may have been sent to the engines."""
        return (published_version + self.max_staleness + 1) * self.prompts_per_iteration
