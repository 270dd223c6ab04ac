"""The sections of tasks: the data to train on, the data to evaluate on, and how a question becomes a prompt.

In: a plain nested dict. Out: frozen sections, distinguished by `name`, which all answer what TaskSettings lists. This
module opens no file: rollout/tasks finds out whether a data set can be read. docs/data.md explains every setting.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self

from pydantic import BeforeValidator, Field, model_validator

from configs.section import Section

FILE_SUFFIXES = (".jsonl", ".json", ".parquet")
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
SYSTEM_PROMPT = (
    "You solve mathematical problems. First think the problem through step by step between <think> and </think>, "
    "then give the final answer, and nothing else, between <answer> and </answer>. "
    "Your whole reply has the form <think> reasoning </think> <answer> answer </answer>."
)


class PromptConfig(Section):
    """How a question becomes the text that the model reads."""

    # chat: the tokenizer's chat template with system and user; plain: system, an empty line, the question
    style: Literal["chat", "plain"] = "chat"
    system: str = SYSTEM_PROMPT  # asks for the form that the format reward looks for; '': only the question


class TaskSettings(Protocol):
    """What the rest of the program asks of the section of any task."""

    @property
    def name(self) -> str: ...

    @property
    def eval_set_names(self) -> tuple[str, ...]: ...  # empty where the task has no evaluation sets

    @property
    def held_out(self) -> int | None: ...  # number of problems for evaluation; None where only the data sets show it

    @property
    def max_prompt_tokens(self) -> int | None: ...  # limit above which a problem is left out; None: every one is short

    @property
    def prompt(self) -> PromptConfig | None: ...  # style of the prompts; None where a question is the whole prompt

    @property
    def reads_data(self) -> bool: ...  # whether building the task reads data sets, which can fail

    def for_evaluation(self, names: Sequence[str]) -> Self:
        """The same task with these evaluation sets only and, where it reads data, without training sets."""
        ...


class ArithmeticTaskConfig(Section):
    """Sums of two numbers of 10-99; held_out of the 8,100 problems are kept for evaluation."""

    name: Literal["arithmetic"]
    held_out: int = Field(default=400, ge=1, le=4000)
    max_prompt_tokens: ClassVar[None] = None
    prompt: ClassVar[None] = None
    reads_data: ClassVar[Literal[False]] = False

    @property
    def eval_set_names(self) -> tuple[str, ...]:
        return (self.name,)

    def for_evaluation(self, names: Sequence[str]) -> Self:
        return self


class EvalSetConfig(Section):
    """The location of one data set, and its columns for the question and the reference answer."""

    path: str = Field(min_length=1)  # name on the Hugging Face hub, or a local .jsonl, .json or .parquet file
    subset: str | None = None  # configuration of a set on the hub; a file has none
    split: str = Field(default="test", min_length=1)  # split of a set on the hub; a file is one split
    question_column: str = Field(default="question", min_length=1)
    answer_column: str = Field(default="answer", min_length=1)  # a|b: the first of them that the set has
    # plain: the text as it stands; hashes: what follows the last `#### `; boxed: content of the last \boxed{};
    # boxed_or_plain: the same where there is one, else the text as it stands
    extraction: Literal["plain", "hashes", "boxed", "boxed_or_plain"] = "plain"
    limit: int | None = Field(default=None, ge=1)  # number of rows used, from the first; null: all

    @property
    def is_file(self) -> bool:
        return self.path.endswith(FILE_SUFFIXES)

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """In order of preference."""
        return tuple(self.answer_column.split("|"))


class TrainSetConfig(EvalSetConfig):
    """A data set to train on."""

    split: str = Field(default="train", min_length=1)
    weight: float = Field(default=1.0, gt=0.0)  # its share of the prompts, relative to the other sets' weights


def _without_null(sets: Any) -> Any:
    """The sets without those that are null: `task.eval.aime24=null` removes a set that a YAML file lists."""
    return {name: value for name, value in sets.items() if value is not None} if isinstance(sets, dict) else sets


# The name is part of metric names (eval/<set>/...), which are lower-case, and of file names.
SetName = Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]
TrainSets = Annotated[dict[SetName, TrainSetConfig], BeforeValidator(_without_null)]
EvalSets = Annotated[dict[SetName, EvalSetConfig], BeforeValidator(_without_null)]


class DataTaskConfig(Section):
    """Questions with reference answers from data sets, each under a name of your choice: task.train.<name>.path=..."""

    name: Literal["gsm8k", "deepmath", "gsm8k_deepmath", "custom"]
    train: TrainSets = Field(default={})
    eval: EvalSets = Field(default={})
    max_prompt_tokens: int = Field(default=1536, ge=1)  # a problem whose prompt is longer is left out
    drop_contaminated: bool = False  # leave out training problems that share 13 words in a row with an evaluation set
    prompt: PromptConfig = PromptConfig()
    held_out: ClassVar[None] = None
    reads_data: ClassVar[Literal[True]] = True

    @property
    def eval_set_names(self) -> tuple[str, ...]:
        return tuple(self.eval)

    def for_evaluation(self, names: Sequence[str]) -> Self:
        return self.model_copy(update={"train": {}, "eval": {name: self.eval[name] for name in names}})

    @model_validator(mode="before")
    @classmethod
    def _every_set_has_a_path(cls, tree: Any) -> Any:
        parts = {part: tree.get(part) for part in ("train", "eval")} if isinstance(tree, dict) else {}
        given = {f"task.{part}": sets for part, sets in parts.items() if isinstance(sets, dict)}
        if lines := [line for key, sets in given.items() for line in _sets_without_path(key, sets)]:
            raise ValueError("\n".join(lines))
        return tree

    def mistakes(self) -> Iterator[str]:
        for part, name, config in self.sets():
            if not config.is_file and not HUB_NAME.fullmatch(config.path):
                yield (
                    f"task.{part}.{name}.path={config.path}: must be a name on the hub, as openai/gsm8k, or a file "
                    f"that ends in {', '.join(FILE_SUFFIXES)}"
                )
        if not self.train:
            yield "task.train: names no data set to train on; give task.train.<name>.path=..."

    def sets(self) -> Iterable[tuple[Literal["train", "eval"], str, EvalSetConfig]]:
        """(part, name, section) of every data set, training first."""
        yield from (("train", name, config) for name, config in self.train.items())
        yield from (("eval", name, config) for name, config in self.eval.items())


def _sets_without_path(key: str, sets: dict[Any, Any]) -> Iterable[str]:
    """Where a name was mistyped, the settings make a second set, without a path."""
    complete = [str(name) for name, value in sets.items() if isinstance(value, dict) and "path" in value]
    for name, value in sets.items():
        if isinstance(value, dict) and "path" not in value:
            near = get_close_matches(str(name), complete, n=1)
            hint = f", did you mean {key}.{near[0]}?" if near else f"; give {key}.{name}.path=..."
            given = ", ".join(f"{key}.{name}.{setting}" for setting in value) or f"{key}.{name}"
            yield f"{given}: the set {name} has no path{hint}"


TaskConfig = Annotated[ArithmeticTaskConfig | DataTaskConfig, Field(discriminator="name")]
