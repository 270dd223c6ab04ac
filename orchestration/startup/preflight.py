"""Everything that is looked at before a run starts any process, in seconds, so that one command shows all mistakes.

In: configurations that the schema accepts. Out: the Checks of each, or a ConfigError with one line for each mistake of
all of them. Starts nothing, writes nothing that stays, and imports torch only for a custom gate or a chat template.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from configs.command import AUTO_RUN_DIR
from configs.loading import ConfigError
from configs.schema import ModelConfig, RunConfig
from configs.tasks import DataTaskConfig
from orchestration.startup.checks.cluster_address import LOCAL, check_address, cluster_address
from orchestration.startup.checks.folders import Folder, check_folder, other_folders, run_folder
from orchestration.startup.checks.memory import check_memory
from orchestration.startup.checks.model_files import FoundModel, find_model
from orchestration.startup.checks.ports import check_ports
from orchestration.startup.checks.result import Check
from orchestration.startup.checks.versions import check_versions
from orchestration.stream.recordings import refuse_recordings
from orchestration.task_loading import model_tokenizer
from orchestration.user_code import refuse_unusable_code
from rollout.prompts import PromptStyleError, prompt_renderer
from rollout.tasks.data_sets import DataSetError, refuse_file

ROOT = Path("runs")  # where run folders of their own choice are made
# Bytes of a parameter in a checkpoint at least: float32 weight and AdamW's two moments; and in the final model.
CHECKPOINT_BYTES, MODEL_BYTES = 12, 4
Answer = TypeVar("Answer")


def preflight(configs: Sequence[RunConfig]) -> list[tuple[Check, ...]]:
    """The checks of each run, in order; `refuse` raises what they found."""
    once = _Once()
    code = _as_check("your own code", "can be used", lambda: refuse_unusable_code(configs))
    return [(code, *_checks(config, _run_folder(config), once), _recordings(config)) for config in configs]


def preflight_into(folder: Path, configs: Sequence[RunConfig], *, key: str, trains: bool = True) -> list[list[Check]]:
    """The checks of runs that another command starts, with their results in one folder; key: its setting.

    trains=False: engines alone. Recordings are left out, because the runs of a study make them for each other.
    """
    once, remedy = _Once(), "name another one"
    results = Folder(name=f"{key}={folder}", path=folder, purpose="results", remedy=remedy)
    return [list(_checks(config, lambda model: check_folder(results), once, trains=trains)) for config in configs]


def refuse(checks: Iterable[Sequence[Check]]) -> None:
    """ConfigError with every mistake that the checks found."""
    if lines := [line for of_run in checks for check in of_run for line in check.mistakes]:
        raise ConfigError(lines)


def notices_of(checks: Sequence[Check]) -> tuple[str, ...]:
    """What the checks of one run leave in doubt, for its log and its report."""
    return tuple(notice for check in checks for notice in check.notices)


class _Once:
    """Calls, each made once for all runs of a sweep that agree in its arguments."""

    def __init__(self) -> None:
        self._answers: dict[str, Any] = {}

    def __call__(self, call: Callable[..., Answer], *arguments: Any) -> Answer:
        key = f"{call.__qualname__}{arguments!r}"
        if key not in self._answers:
            self._answers[key] = call(*arguments)
        answer: Answer = self._answers[key]
        return answer


def _checks(
    config: RunConfig, folder: Callable[[FoundModel], Check], once: _Once, *, trains: bool = True
) -> Iterator[Check]:
    """folder: the check of the folder that the results go to."""
    is_local = cluster_address(config.cluster.address) == LOCAL
    model = once(find_model, config.model)
    yield once(check_versions)
    yield once(check_ports)
    yield once(check_address, config.cluster.address)
    yield folder(model)
    size = MODEL_BYTES * (model.num_parameters or 0) if model.is_downloaded_later else None
    yield from other_folders(config, is_local=is_local, downloaded_bytes=size)
    yield Check(name="model", found=model.found, mistakes=model.mistakes)
    if is_local:
        yield check_memory(config, model.num_parameters, trains=trains)
    if isinstance(config.task, DataTaskConfig):
        yield from once(_data_checks, config.task)
        if model.folder is not None and not model.mistakes:
            yield once(_prompt_check, config.task, config.model, model.folder)


def _recordings(config: RunConfig) -> Check:
    return _as_check("recordings", "none, or as the run needs them", lambda: refuse_recordings(config))


def _run_folder(config: RunConfig) -> Callable[[FoundModel], Check]:
    path = ROOT if config.run_dir == AUTO_RUN_DIR else Path(config.run_dir)

    def check(model: FoundModel) -> Check:
        number = model.num_parameters or 0
        written = 0 if config.learner.lora.is_on else CHECKPOINT_BYTES * number  # adapters alone are small
        return run_folder(config, path, checkpoint_bytes=written, model_bytes=MODEL_BYTES * number)

    return check


def _data_checks(task: DataTaskConfig) -> list[Check]:
    """One Check for each data set that is a file; sets on the hub are read when the run starts."""
    files = {f"task.{part}.{name}": section for part, name, section in task.sets() if section.is_file}
    return [
        _as_check(key, f"{section.path} has the columns", partial(refuse_file, section, key=key))
        for key, section in files.items()
    ]


def _prompt_check(task: DataTaskConfig, model: ModelConfig, folder: Path) -> Check:
    """Whether the chat template makes a prompt of a question; a plain style needs none."""

    def render() -> None:
        if task.prompt.style == "chat":
            prompt_renderer(task, model_tokenizer(model, folder))

    return _as_check("prompts", "can be made", render)


def _as_check(name: str, found: str, call: Callable[[], None]) -> Check:
    """The Check of a call that raises its mistakes, one line each."""
    try:
        call()
    except (ConfigError, DataSetError, PromptStyleError) as error:
        return Check(name=name, found="cannot be used", mistakes=tuple(str(error).splitlines()))
    return Check(name=name, found=found)
