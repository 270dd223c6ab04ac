"""Batches in the order of admission: for iteration k exactly the groups admitted as number k*n up to (k+1)*n - 1.

In: finished groups as they come. Out: the batches, in this order. It is that of their prompts too, whose positions run
ahead where groups are replaced.

Why prompt order and not completion order: the first n groups to finish are those with the shortest completions, so
batches by completion order favour short answers early and pile the long ones up; by prompt order a batch has no length
bias, does not depend on timing or on the number of engines, and its staleness is bounded by the admission rule alone.
The price is to wait for the batch's slowest group; meanwhile engines work on the groups admitted ahead, or see
finished_order.py. Nothing here knows Ray, time or what a group costs.
"""

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Admitted(Protocol):
    """Anything that was admitted; admission_index counts admissions from 0 over the whole run."""

    @property
    def admission_index(self) -> int: ...


AdmittedT = TypeVar("AdmittedT", bound=Admitted)


class GroupBuffer(Generic[AdmittedT]):
    """Holds finished items until the batch they belong to is complete.

    Iterations are taken in order, each once, beginning with start_iteration (> 0 after a resume). An item that comes
    twice or belongs to an iteration already taken is a broken promise of the sender and fails an assertion.
    """

    def __init__(self, prompts_per_iteration: int, *, start_iteration: int = 0) -> None:
        self._prompts_per_iteration = prompts_per_iteration
        self._next_iteration = start_iteration
        self._items: dict[int, AdmittedT] = {}

    def __len__(self) -> int:
        """Items held."""
        return len(self._items)

    def add(self, item: AdmittedT) -> None:
        index = item.admission_index
        assert index not in self._items, f"admission {index} arrived twice"
        first = self._next_iteration * self._prompts_per_iteration
        assert index >= first, f"admission {index} arrived too late: the next batch begins at {first}"
        self._items[index] = item

    def missing(self, iteration: int) -> tuple[int, ...]:
        """Admission indices of the iteration's batch that have not arrived, ascending."""
        return tuple(index for index in self._indices(iteration) if index not in self._items)

    def settled(self, iteration: int) -> Iterator[AdmittedT]:
        """What has arrived of the iteration's batch."""
        return (self._items[index] for index in self._indices(iteration) if index in self._items)

    def ready(self, iteration: int) -> bool:
        return not self.missing(iteration)

    def take(self, iteration: int) -> list[AdmittedT]:
        """Remove and return the iteration's items, in the order of admission."""
        assert iteration == self._next_iteration, (
            f"iteration {iteration} is out of turn; next is {self._next_iteration}"
        )
        missing = self.missing(iteration)
        assert not missing, f"iteration {iteration} taken before admissions {missing} arrived"
        self._next_iteration += 1
        return [self._items.pop(index) for index in self._indices(iteration)]

    def _indices(self, iteration: int) -> range:
        return range(iteration * self._prompts_per_iteration, (iteration + 1) * self._prompts_per_iteration)
