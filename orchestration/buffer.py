"""How far generation may run ahead, and how finished groups become the batches of iterations.

In: graded groups in the order in which they finish. Out: for iteration k exactly the groups admitted as number k*n up
to (k+1)*n - 1, in this order. It is that of their prompts too, whose positions run ahead where groups are replaced.

Why prompt order and not completion order: the first n groups to finish are those with the shortest completions, so
batches by completion order favour short answers early and pile the long ones up; by prompt order a batch has no length
bias, does not depend on timing or on the number of engines, and its staleness is bounded by the admission rule alone.
The price is to wait for the batch's slowest group; meanwhile engines work on the groups admitted ahead, or see
finished_order.py. Nothing here knows Ray, time or what a group costs.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from rollout.contract import PromptGroup, RewardVerdict


@dataclass(frozen=True, kw_only=True, slots=True)
class GradedGroup:
    """The G completions of one prompt with their verdicts, in sample order."""

    group: PromptGroup
    verdicts: tuple[RewardVerdict, ...]  # G
    is_replayed: bool = False  # read from a recording: sampled by the policy of another run

    def __post_init__(self) -> None:
        if len(self.verdicts) != len(self.group.completions):
            raise ValueError(
                f"prompt {self.prompt_index}: {len(self.verdicts)} verdicts for {len(self.group.completions)} "
                f"completions; a group needs one each"
            )

    @property
    def prompt_index(self) -> int:
        return self.group.prompt.index

    @property
    def rewards(self) -> np.ndarray:
        """[G] float64."""
        return np.array([verdict.total for verdict in self.verdicts], dtype=np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Admission:
    """The hard bound on staleness: a prompt whose group could be too old when it is consumed is not generated yet.

    Iteration k trains the groups of the places from k*n up to (k+1)*n - 1 at version k. They are admitted once version
    k - max_staleness is published, so that no token of theirs is more than max_staleness versions old and nothing that
    was generated has to be thrown away. (Batches in another order: finished_order.py.)
    """

    prompts_per_iteration: int
    max_staleness: int  # policy versions

    def allowed(self, published_version: int) -> int:
        """How many prompts, counted from the start of the run, may have been sent to the engines."""
        return (published_version + self.max_staleness + 1) * self.prompts_per_iteration


class Placed(Protocol):
    """Anything that has a place in the order of admission."""

    @property
    def place(self) -> int: ...


PlacedT = TypeVar("PlacedT", bound=Placed)


class GroupBuffer(Generic[PlacedT]):
    """Holds finished items until the batch they belong to is complete.

    Iterations are taken in order, each once, beginning with start_iteration (> 0 after a resume). An item that comes
    twice or belongs to an iteration already taken is a broken promise of the sender and fails an assertion.
    """

    def __init__(self, prompts_per_iteration: int, *, start_iteration: int = 0) -> None:
        self._prompts_per_iteration = prompts_per_iteration
        self._next_iteration = start_iteration
        self._items: dict[int, PlacedT] = {}

    def __len__(self) -> int:
        """Items held."""
        return len(self._items)

    def add(self, item: PlacedT) -> None:
        index = item.place
        assert index not in self._items, f"place {index} arrived twice"
        first = self._next_iteration * self._prompts_per_iteration
        assert index >= first, f"place {index} arrived too late: the next batch begins at place {first}"
        self._items[index] = item

    def missing(self, iteration: int) -> tuple[int, ...]:
        """Places of the iteration's batch that have not arrived, ascending."""
        return tuple(index for index in self._indices(iteration) if index not in self._items)

    def ready(self, iteration: int) -> bool:
        return not self.missing(iteration)

    def take(self, iteration: int) -> list[PlacedT]:
        """Remove and return the iteration's items, sorted by place."""
        assert iteration == self._next_iteration, (
            f"iteration {iteration} is out of turn; next is {self._next_iteration}"
        )
        missing = self.missing(iteration)
        assert not missing, f"iteration {iteration} taken before places {missing} arrived"
        self._next_iteration += 1
        return [self._items.pop(index) for index in self._indices(iteration)]

    def _indices(self, iteration: int) -> range:
        return range(iteration * self._prompts_per_iteration, (iteration + 1) * self._prompts_per_iteration)


def group_metrics(groups: Sequence[GradedGroup], *, policy_version: int) -> dict[str, float]:
    """Rewards, lengths and staleness of one iteration's batch under the names of metrics.jsonl.

    policy_version is the learner's version when the batch is consumed. Means run over completions, so all groups having
    the same G count alike; zero variance is counted over groups.
    """
    assert groups, "an iteration has at least one group"
    completions = [completion for item in groups for completion in item.group.completions]
    verdicts = [verdict for item in groups for verdict in item.verdicts]
    rewards = np.concatenate([item.rewards for item in groups])
    staleness = [policy_version - completion.min_policy_version for completion in completions]
    tokens_behind: Counter[int] = Counter()
    for completion in completions:
        for version, count in completion.tokens_by_version().items():
            tokens_behind[policy_version - version] += count
    extras = {name for verdict in verdicts for name in verdict.extra}  # zeros where a limit struck have none
    assert min(staleness) >= 0, f"staleness {min(staleness)}: version {policy_version} is older than a completion's"
    return {
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std()),
        "reward/format": float(np.mean([verdict.format for verdict in verdicts])),
        "reward/answer": float(np.mean([verdict.answer for verdict in verdicts])),
        **{f"reward/{name}": float(np.mean([verdict.extra.get(name, 0.0) for verdict in verdicts])) for name in extras},
        "completion/length_mean": float(np.mean([len(completion.token_ids) for completion in completions])),
        "completion/truncated_share": float(np.mean([not completion.finished for completion in completions])),
        "group/zero_variance_share": float(np.mean([np.ptp(item.rewards) == 0.0 for item in groups])),
        "staleness/mean": float(np.mean(staleness)),
        "staleness/max": float(max(staleness)),
        **{f"staleness/share@{behind}": count / tokens_behind.total() for behind, count in tokens_behind.items()},
    }
