"""A task made of data sets: all of them read, duplicate training problems removed.

In: the task's section. Out: a DataTask, or a DataSetError that has one line for each set that cannot be used. What is
left out later (long prompts, contaminated problems) gives another DataTask; the decision is the caller's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from configs.tasks import DataTaskConfig
from rollout.tasks import Problem
from rollout.tasks.data_sets import DataSetError, LoadedSet, load_set, prepare_hub


@dataclass(frozen=True, kw_only=True, slots=True)
class DataTask:
    """Problems in memory; training problems in the order of the sets and their rows."""

    train: tuple[Problem, ...]
    evaluation: Mapping[str, tuple[Problem, ...]]
    source_weights: Mapping[str, float]  # one for each training set
    num_duplicates: int  # training problems that were left out because an earlier one asks the same
    num_without_answer: Mapping[str, int]  # by key of the set (train.gsm8k), only where there are any

    @classmethod
    def load(cls, config: DataTaskConfig) -> "DataTask":
        """Reads every set; all sets that cannot be used are told at once."""
        loaded = _load_all(config)
        everything = [problem for name in config.train for problem in loaded[f"train.{name}"].problems]
        train = without_duplicates(everything)
        _refuse_repeated_sets(config, train)
        return cls(
            train=tuple(train),
            evaluation={name: loaded[f"eval.{name}"].problems for name in config.eval},
            source_weights={name: section.weight for name, section in config.train.items()},
            num_duplicates=len(everything) - len(train),
            num_without_answer={
                key: found.num_without_answer for key, found in loaded.items() if found.num_without_answer
            },
        )

    def train_problems(self) -> list[Problem]:
        return list(self.train)

    def eval_sets(self) -> dict[str, list[Problem]]:
        return {name: list(problems) for name, problems in self.evaluation.items()}

    def weights(self) -> Mapping[str, float]:
        return self.source_weights

    def num_by_source(self) -> dict[str, int]:
        """How many training problems each set still has."""
        counts = dict.fromkeys(self.source_weights, 0)
        for problem in self.train:
            counts[problem.source] += 1
        return counts

    def select(self, keep: Callable[[Sequence[Problem]], Sequence[bool]], *, evaluation_too: bool) -> "DataTask":
        """The task with those problems that `keep` says True to; DataSetError where a set loses all of its problems."""

        def kept(problems: Sequence[Problem]) -> tuple[Problem, ...]:
            return tuple(problem for problem, stays in zip(problems, keep(problems), strict=True) if stays)

        evaluation = {name: kept(problems) for name, problems in self.evaluation.items()}
        task = replace(self, train=kept(self.train), evaluation=evaluation if evaluation_too else self.evaluation)
        counts = {f"task.train.{name}": count for name, count in task.num_by_source().items()}
        counts |= {f"task.eval.{name}": len(problems) for name, problems in task.evaluation.items()}
        emptied = [key for key, count in counts.items() if count == 0]
        if emptied:
            raise EmptiedSetError(emptied)
        return task


class EmptiedSetError(ValueError):
    """Sets of which nothing is left; `keys` names them."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = tuple(keys)
        super().__init__(f"{', '.join(keys)}: no problem is left")


def without_duplicates(problems: Sequence[Problem]) -> list[Problem]:
    """The first of all problems whose questions differ in case and white space only, in order."""
    first: dict[str, Problem] = {}
    for problem in problems:
        first.setdefault(normalised(problem.text), problem)
    return list(first.values())


def normalised(text: str) -> str:
    """A question as it is compared with others: white space collapsed, case ignored."""
    return " ".join(text.split()).casefold()


def _refuse_repeated_sets(config: DataTaskConfig, train: Sequence[Problem]) -> None:
    sources = {problem.source for problem in train}
    lines = [
        f"task.train.{name}.path={section.path}: every problem of it is in an earlier set too; "
        f"leave it out: task.train.{name}=null"
        for name, section in config.train.items()
        if name not in sources
    ]
    if lines:
        raise DataSetError("\n".join(lines))


def _load_all(config: DataTaskConfig) -> dict[str, LoadedSet]:
    """By key of the set below `task.`."""
    if any(not section.is_file for _, _, section in config.sets()):
        prepare_hub()
    loaded, lines = {}, []
    for part, name, section in config.sets():
        key = f"{part}.{name}"
        try:
            loaded[key] = load_set(name, section, key=f"task.{key}")
        except DataSetError as error:
            lines.append(str(error))
    if lines:
        raise DataSetError("\n".join(lines))
    return loaded
