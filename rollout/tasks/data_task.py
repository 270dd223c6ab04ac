"""A task of data sets, with all sets read and duplicate training problems removed.

In: the task's section. Out: a DataTask, or a DataSetError with one line for each set that cannot be used. The caller
decides which problems to leave out later (long prompts, contaminated problems), which gives another DataTask.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from configs.tasks import DataTaskConfig
from rollout.tasks import Problem
from rollout.tasks.data_sets import DataSetError, LoadedSet, load_set, prepare_hub


@dataclass(frozen=True, kw_only=True, slots=True)
class DataTask:
    """Problems of data sets in memory; training problems are in the order of the sets and their rows."""

    train: tuple[Problem, ...]
    evaluation: Mapping[str, tuple[Problem, ...]]
    source_weights: Mapping[str, float]  # weight of each training set, by name
    num_duplicates: int  # training problems left out because an earlier one has the same question
    num_without_answer: Mapping[str, int]  # rows without answer by key of the set (train.gsm8k), only where > 0

    @classmethod
    def load(cls, config: DataTaskConfig) -> "DataTask":
        """Reads every set; one DataSetError reports all sets that cannot be used."""
        loaded = _load_all(config)
        everything = [problem for name in config.train for problem in loaded[f"train.{name}"].problems]
        train = without_duplicates(everything)
        sources = {problem.source for problem in train}
        repeated = [
            f"task.train.{name}.path={section.path}: all of its problems are in earlier sets too; "
            f"leave it out: task.train.{name}=null"
            for name, section in config.train.items()
            if name not in sources
        ]
        if repeated:
            raise DataSetError("\n".join(repeated))
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
        """Number of training problems of each set."""
        counts = dict.fromkeys(self.source_weights, 0)
        for problem in self.train:
            counts[problem.source] += 1
        return counts

    def select(self, keep: Callable[[Sequence[Problem]], Sequence[bool]], *, evaluation_too: bool) -> "DataTask":
        """The task with the problems for which `keep` is True; DataSetError if a set loses all of its problems."""

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
    """Sets without any problem left; `keys` names them."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = tuple(keys)
        super().__init__(f"{', '.join(keys)}: no problem is left")


def without_duplicates(problems: Sequence[Problem]) -> list[Problem]:
    """The problems in order, each only once; questions that differ in case and white space only are the same."""
    first: dict[str, Problem] = {}
    for problem in problems:
        first.setdefault(normalised(problem.text), problem)
    return list(first.values())


def normalised(text: str) -> str:
    """A question for comparison: in lower case, with single spaces."""
    return " ".join(text.split()).casefold()


def _load_all(config: DataTaskConfig) -> dict[str, LoadedSet]:
    """Reads all sets; returns them by their key below `task.`."""
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
