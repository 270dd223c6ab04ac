"""The model of a run, located, and its task, loaded and filtered before anything starts.

In: the configuration and the model's location. Out: the task without the problems that must not be trained on, and
notices of what was left out and how many training problems share text with an evaluation set. Raises ConfigError where
a data set, a column, the tokenizer or its chat template cannot be used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from configs.loading import ConfigError
from configs.schema import ModelConfig, RunConfig
from configs.tasks import DataTaskConfig
from orchestration.terminal.console import progress_of
from rollout.prompts import PromptStyleError, load_tokenizer, prompt_renderer, prompts_fit
from rollout.tasks import Problem, Task, build_task
from rollout.tasks.contamination import NGRAM_WORDS, contaminated
from rollout.tasks.data_sets import DataSetError
from rollout.tasks.data_task import DataTask, EmptiedSetError
from rollout.tasks.embedded_model import ensure_embedded_model


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedTask:
    """A task with the notices that the log and the report repeat."""

    task: Task
    notices: tuple[str, ...]  # one line each


def locate_model(model: ModelConfig, console: Console) -> Path | str:
    """The folder or hub name to load; "embedded" is built on first use, with a progress bar, and cached."""
    if model.path != "embedded":
        return model.path
    with progress_of(console, "building the embedded model (once)") as progress:
        return ensure_embedded_model(progress=progress)


def load_task(config: RunConfig, locate: Callable[[], Path | str]) -> LoadedTask:
    """Builds the task; one that reads data sets is filtered with the model's tokenizer, which others do not need."""
    section = config.task
    if not section.reads_data:
        return LoadedTask(task=build_task(section), notices=())
    try:
        task = DataTask.load(section)
        return prepare(task, section, model_tokenizer(config.model, locate()))
    except (DataSetError, PromptStyleError) as error:
        raise ConfigError(str(error).splitlines()) from error


def prepare(task: DataTask, config: DataTaskConfig, tokenizer: Any) -> LoadedTask:
    """Leaves out prompts that are too long and, if the configuration asks for it, contaminated training problems."""
    render = prompt_renderer(config, tokenizer)

    def fits(problems: Sequence[Problem]) -> list[bool]:
        return prompts_fit(problems, tokenizer, render, max_tokens=config.max_prompt_tokens)

    too_long = f"prompts over task.max_prompt_tokens={config.max_prompt_tokens}"
    fitting = _selected(task, fits, too_long, evaluation_too=True)
    notices = [_counts(task, fitting, config), *_left_out(task, fitting, config)]
    shared = contaminated(fitting.train, fitting.evaluation)
    fate = " and are left out" if config.drop_contaminated else "; task.drop_contaminated=true leaves them out"
    for name, indices in shared.items():
        notices.append(
            f"contamination {name}: {len(indices):,} of {len(fitting.train):,} training problems share "
            f"{NGRAM_WORDS} words in a row with it{fate if indices else ''}"
        )
    if not config.drop_contaminated:
        return LoadedTask(task=fitting, notices=tuple(notices))
    dropped = {index for indices in shared.values() for index in indices}

    def clean(problems: Sequence[Problem]) -> list[bool]:
        return [index not in dropped for index in range(len(problems))]

    cleaned = _selected(fitting, clean, "contaminated problems", evaluation_too=False)
    return LoadedTask(task=cleaned, notices=(*notices, f"{len(cleaned.train):,} training problems remain"))


def model_tokenizer(model: ModelConfig, model_path: Path | str) -> Any:
    """The tokenizer of a model that is located; ConfigError where it cannot be loaded."""
    try:
        return load_tokenizer(str(model_path), trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(
            [f"model.path={model_path}: its tokenizer cannot be loaded ({reason}); correct the path"]
        ) from error


def _selected(
    task: DataTask, keep: Callable[[Sequence[Problem]], Sequence[bool]], what: str, *, evaluation_too: bool
) -> DataTask:
    """The task with the problems that `keep` accepts; what: those that it leaves out, for the error."""
    try:
        return task.select(keep, evaluation_too=evaluation_too)
    except EmptiedSetError as error:
        rule = f"no problem is left without {what}; change that setting or leave the set out"
        raise ConfigError(f"{key}: {rule}: {key}=null" for key in error.keys) from error


def _counts(task: DataTask, fitting: DataTask, config: DataTaskConfig) -> str:
    counts, total = fitting.num_by_source(), _counted(len(fitting.train), "problem")
    if len(counts) > 1:
        total = " + ".join(f"{name} {count:,}" for name, count in counts.items()) + " problems"
    num_long = len(task.train) - len(fitting.train)
    return (
        f"task {config.name}: {total}, {_counted(task.num_duplicates, 'duplicate')} and "
        f"{_counted(num_long, 'prompt')} over {config.max_prompt_tokens:,} tokens left out"
    )


def _left_out(task: DataTask, fitting: DataTask, config: DataTaskConfig) -> list[str]:
    lines = [
        f"task.{key}: {_counted(number, 'row')} without a question or an answer left out"
        for key, number in task.num_without_answer.items()
    ]
    for name, problems in task.evaluation.items():
        left = len(fitting.evaluation[name])
        if left < len(problems):
            number = _counted(len(problems) - left, "prompt")
            lines.append(
                f"task.eval.{name}: {number} over {config.max_prompt_tokens:,} tokens left out, {left:,} remain"
            )
    return lines


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
