"""What a task is: problems to train on and problems kept for evaluation.

In: a task section of the configuration. Out: a Task. Knows no tokenizer, no model and no reward; a problem is a
question and its reference answer, whatever data set it came from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from configs.tasks import ArithmeticTaskConfig, TaskConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One question of a task."""

    text: str  # the question; rollout/prompts.py makes the prompt of it
    reference_answer: str
    source: str  # name of the data set


class Task(Protocol):
    """A source of problems. Both are fixed for a configuration."""

    def train_problems(self) -> list[Problem]: ...

    def eval_sets(self) -> dict[str, list[Problem]]:
        """By the name of the set."""
        ...

    def weights(self) -> Mapping[str, float]:
        """The weight of each source in the mixture; a source that is not named has weight 1."""
        ...


def build_task(config: TaskConfig) -> Task:
    """The task that the configuration names, its data in memory; DataSetError where a set cannot be used."""
    # Here, because the tasks import Problem from this module.
    if isinstance(config, ArithmeticTaskConfig):
        from rollout.tasks.arithmetic import ArithmeticTask

        return ArithmeticTask(held_out=config.held_out)
    from rollout.tasks.data_task import DataTask

    return DataTask.load(config)
