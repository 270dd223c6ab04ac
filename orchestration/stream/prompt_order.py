"""Batches in the order of admission: for iteration k exactly the groups admitted as number k*n up to (k+1)*n - 1.

In: finished groups as they come. Out: the batches, in this order. It is that of their prompts too, whose positions run
ahead where groups are replaced.

Why prompt order and not completion order: the first n groups to finish are those with the shortest completions, so
batches by completion order favour short answers early and pile the long ones up; by prompt order a batch has no length
bias, does not depend on timing or on the number of engines, and its staleness is bounded by the admission rule alone.
The price is to wait for the batch's slowest group; meanwhile engines work on the groups admitted ahead, or see
finished_order.py. Nothing here knows Ray, time or what a group costs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar


class Admitted(Protocol):
    """Anything that was admitted; admission_index counts admissions from 0 over the whole run."""

    @property
    def admission_index(self) -> int: ...


AdmittedT = TypeVar("AdmittedT", bound=Admitted)


class Buffer(ABC, Generic[AdmittedT]):
    """Finished items that no batch has taken yet. Iterations are taken in order, each once, from start_iteration on.

    An item that comes twice or after it was taken is a broken promise of the sender and fails an assertion. Which items
    make a batch is a subclass's decision.
    """

    def __init__(self, prompts_per_iteration: int, *, start_iteration: int = 0) -> None:
        self._prompts_per_iteration = prompts_per_iteration
        self._next_iteration = start_iteration  # > 0 after a resume
        self._items: dict[int, AdmittedT] = {}  # items by admission index, in the order of arrival

    def add(self, item: AdmittedT) -> None:
        index = item.admission_index
        assert index not in self._items, f"admission {index} arrived twice"
        assert not self._is_taken(index), f"admission {index} arrived too late: its batch was taken"
        self._items[index] = item

    def settled(self, iteration: int) -> Iterator[AdmittedT]:
        """Items that will be in the batch of the iteration, the next one, whatever arrives later."""
        return (self._items[index] for index in self._chosen(iteration))

    def missing(self, iteration: int) -> tuple[int, ...]:
        """Admission indices that the iteration's batch must have and that have not arrived, ascending."""
        return tuple(index for index in self._due(iteration) if index not in self._items)

    def ready(self, iteration: int) -> bool:
        """Whether the batch of the iteration, the next one, is complete."""
        return not self.missing(iteration)

    def take(self, iteration: int) -> list[AdmittedT]:
        """Removes and returns the iteration's items, in the order of admission."""
        assert iteration == self._next_iteration, f"iteration {iteration} is out of turn; next: {self._next_iteration}"
        assert self.ready(iteration), f"iteration {iteration} taken before admissions {self.missing(iteration)} arrived"
        chosen = self._chosen(iteration)
        self._next_iteration += 1
        return [self._items.pop(index) for index in chosen]

    @abstractmethod
    def _due(self, iteration: int) -> Sequence[int]:
        """Admission indices that must be in the batch, ascending."""

    @abstractmethod
    def _chosen(self, iteration: int) -> list[int]:
        """Admission indices of the batch as far as they have arrived, ascending."""

    @abstractmethod
    def _is_taken(self, index: int) -> bool:
        """Whether an admission was in an earlier batch."""


class GroupBuffer(Buffer[AdmittedT]):
    """Holds finished items until all of the batch they belong to have arrived."""

    def _chosen(self, iteration: int) -> list[int]:
        return [index for index in self._due(iteration) if index in self._items]

    def _due(self, iteration: int) -> Sequence[int]:
        return range(iteration * self._prompts_per_iteration, (iteration + 1) * self._prompts_per_iteration)

    def _is_taken(self, index: int) -> bool:
        return index < self._next_iteration * self._prompts_per_iteration
