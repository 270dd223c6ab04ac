"""Batches of the groups that finished first: one long completion does not hold up the others.

In: finished groups as they come. Out: for iteration k the groups that are due, then those that finished first, as many
as a batch takes, in the order of their admission. A group that is not finished goes on under the next version and is in
a later batch; nothing is dropped.

Why it cannot break the bound on staleness. Admission runs LOOKAHEAD = 1 version ahead, whatever max_staleness is, so
before batch k (k + 2) * n groups have been admitted, k * n were taken, and 2 * n are left. Version k itself admitted n
of these. A group is due in batch k if it was admitted at version k - max_staleness or before, so those n are not due,
and at most n = one batch are. Were admission to run ahead by max_staleness versions, as it may in prompt order, all
batches would be full of groups that are due, and nothing could overtake; that is also why max_staleness must be 2 here.
"""

from orchestration.stream.prompt_order import AdmittedT, Buffer

LOOKAHEAD = 1  # policy versions by which admission runs ahead
MIN_STALENESS = LOOKAHEAD + 1


class FinishedBuffer(Buffer[AdmittedT]):
    """Holds finished items until a batch takes them.

    What is admitted at start_iteration counts as admitted at that version, after a resume too, which admits it again.
    """

    def __init__(self, prompts_per_iteration: int, *, max_staleness: int, start_iteration: int = 0) -> None:
        assert max_staleness >= MIN_STALENESS, max_staleness
        super().__init__(prompts_per_iteration, start_iteration=start_iteration)
        self._max_staleness = max_staleness
        self._start_iteration = start_iteration
        self._first = start_iteration * prompts_per_iteration  # every admission index below was taken
        self._taken: set[int] = set()  # admission indices from _first on

    def ready(self, iteration: int) -> bool:
        return len(self._items) >= self._prompts_per_iteration and super().ready(iteration)

    def take(self, iteration: int) -> list[AdmittedT]:
        due = self._due(iteration)
        assert len(due) <= self._prompts_per_iteration, f"iteration {iteration}: {len(due)} groups are due at once"
        taken = super().take(iteration)
        self._taken.update(item.admission_index for item in taken)
        while self._first in self._taken:
            self._taken.remove(self._first)
            self._first += 1
        return taken

    def _is_taken(self, index: int) -> bool:
        return index < self._first or index in self._taken

    def _chosen(self, iteration: int) -> list[int]:
        """Admission indices of the groups that are due, then of those that finished first."""
        due = set(self._due(iteration))
        first_come = [index for index in self._items if index not in due]
        arrived = [index for index in due if index in self._items]
        return sorted([*arrived, *first_come[: self._prompts_per_iteration - len(due)]])

    def _due(self, iteration: int) -> list[int]:
        """Admission indices that would be too old in the batch after this one, ascending."""
        newest = iteration - self._max_staleness  # groups of this version and older ones are due
        if newest < self._start_iteration:
            return []
        end = (newest + LOOKAHEAD + 1) * self._prompts_per_iteration
        return [index for index in range(self._first, end) if index not in self._taken]
