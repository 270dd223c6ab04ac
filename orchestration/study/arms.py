"""The state of each arm of a study, and how the arm is started: from the beginning, from its checkpoint, or not at all.

In: arms and the study's folder. Out: the state of each arm's folder, and the arguments of the command that finishes the
arm. Reads the files of runs and starts nothing. Refuses a folder that holds a run with other settings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.loading import ConfigError
from orchestration.checkpoints.store import has_checkpoints
from orchestration.journal.json_lines import read_rows
from orchestration.journal.run_files import CHECKPOINT_FOLDER, EVAL_FILE, METRICS_FILE
from orchestration.journal.run_record import is_complete
from orchestration.startup.folders import is_empty
from orchestration.startup.ownership import own
from orchestration.startup.resume import check_resumable, stored_settings
from orchestration.study.settings import Arm

# new: no run there; broken: a run without checkpoint; stopped: a run that can be resumed
State = Literal["new", "broken", "stopped", "finished"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmStatus:
    """An arm and the state of its folder."""

    arm: Arm
    folder: Path
    state: State
    num_iterations: int  # rows in metrics.jsonl


def arm_status(arm: Arm, study_dir: Path) -> ArmStatus:
    """The state of the arm's folder."""
    folder = study_dir / arm.name
    num_iterations = len(read_rows(folder / METRICS_FILE))
    evals = [int(row["iteration"]) for row in read_rows(folder / EVAL_FILE)]
    state: State = "broken"
    if not folder.is_dir() or is_empty(folder):
        state = "new"
    elif is_complete(arm.config, num_iterations=num_iterations, evals=evals):
        state = "finished"
    elif has_checkpoints(folder / CHECKPOINT_FOLDER):
        state = "stopped"
    return ArmStatus(arm=arm, folder=folder, state=state, num_iterations=num_iterations)


def refuse_other_settings(statuses: Sequence[ArmStatus]) -> None:
    """Raises ConfigError with a line for each folder whose run does not belong to this study."""
    lines: list[str] = []
    for status in statuses:
        name, wanted = status.arm.name, status.arm.config.num_iterations
        if status.num_iterations > wanted:
            lines.append(
                f"{name}: {status.folder} holds {status.num_iterations} iterations, num_iterations={wanted} asks for "
                f"fewer; name another study_dir"
            )
            continue
        if status.state not in ("stopped", "finished"):
            continue
        try:
            stored = stored_settings(status.folder)
            check_resumable(stored, status.arm.config, status.folder)
        except ConfigError as error:
            lines.append(f"{name}: {'; '.join(error.lines)}; or name another study_dir")
            continue
        if stored.num_iterations != wanted and stored.learner.lr_schedule == "linear":
            lines.append(
                f"{name}: {status.folder} was trained with num_iterations={stored.num_iterations}, now "
                f"num_iterations={wanted}, which moves its learning rate; name another study_dir"
            )
        if stored.eval != status.arm.config.eval:
            lines.append(f"{name}: {status.folder} was evaluated with other settings of eval; name another study_dir")
        records = status.arm.records
        if records is not None and not records.exists():
            lines.append(f"{name}: {status.folder} was trained without recording {records}; name another study_dir")
    if lines:
        raise ConfigError(lines)


def refuse_living_runs(statuses: Sequence[ArmStatus]) -> None:
    """Raises ConfigError with a line for each arm whose run an ended study left behind, alive."""
    lines: list[str] = []
    for status in statuses:
        if status.state != "finished" and status.folder.is_dir():
            try:
                with own(status.folder, setting=status.arm.name):
                    pass
            except ConfigError as error:
                lines.extend(error.lines)
    if lines:
        raise ConfigError(lines)


def run_arguments(status: ArmStatus) -> list[str]:
    """Arguments of `python orchestration/run.py` that finish the arm."""
    resume = ["resume=true"] if status.state == "stopped" else []
    return [*status.arm.overrides, f"run_dir='{status.folder}'", *resume]


def clear_the_way(status: ArmStatus) -> Path | None:
    """Renames the folder of a broken run to a free name beside it, which is returned; else None."""
    if status.state != "broken":
        return None
    number = 1
    while (aside := status.folder.with_name(f"{status.folder.name}.broken-{number}")).exists():
        number += 1
    status.folder.rename(aside)
    return aside
