"""What a task is: problems to train on and problems kept for evaluation.

In: a task section of the configuration. Out: a Task. Knows no tokenizer, no model and no reward; a problem is text and
its reference answer, whatever data set it came from.
"""

from dataclasses import dataclass
from typing import Protocol

from configs.schema import TaskConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One question of a task."""

    text: str  # the whole prompt as the model reads it, chat tags included
    reference_answer: str


class Task(Protocol):
    """A source of problems. Both lists are fixed for a configuration and share no problem."""

    def train_problems(self) -> list[Problem]: ...

    def eval_problems(self) -> list[Problem]: ...


def build_task(config: TaskConfig) -> Task:
    """The task that the configuration names."""
    from rollout.tasks.arithmetic import ArithmeticTask  # here, because the tasks import Problem from this module

    return ArithmeticTask(held_out=config.held_out)
