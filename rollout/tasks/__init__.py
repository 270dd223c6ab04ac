"""Tasks: problems to train on and problems kept for evaluation.

In: a task section of the configuration. Out: a Task. Knows no tokenizer, no model and no reward; a problem is a
question and its reference answer, from whatever data set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from configs.tasks import ArithmeticTaskConfig, DataTaskConfig, TaskConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One question of a task."""

    text: str  # the question, from which rollout/prompts.py makes the prompt
    reference_answer: str
    source: str  # name of the data set


class Task(Protocol):
    """The problems of a run: those to train on and those of each evaluation set; fixed by the configuration."""

    def train_problems(self) -> list[Problem]: ...

    def eval_sets(self) -> dict[str, list[Problem]]:
        """Problems of each evaluation set, by its name, as `eval_set_names` of the section lists them."""
        ...

    def weights(self) -> Mapping[str, float]:
        """Weights of sources in the mixture; a source that is not named has weight 1."""
        ...


def build_task(config: TaskConfig) -> Task:
    """Builds the configured task, data in memory; DataSetError if a set cannot be used. A new task adds a case."""
    match config:  # the tasks are imported here, because they import Problem from this module
        case ArithmeticTaskConfig():
            from rollout.tasks.arithmetic import ArithmeticTask

            return ArithmeticTask(held_out=config.held_out)
        case DataTaskConfig():
            from rollout.tasks.data_task import DataTask

            return DataTask.load(config)
