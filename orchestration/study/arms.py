"""How far each arm of a study is, and how it is started: afresh, from its checkpoint, or not at all.

In: arms and the study's folder. Out: the state of each arm's folder, and the arguments of the command that finishes it.
Reads what runs left behind; starts nothing. Refuses to go on where a folder holds a run with other settings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs.loading import ConfigError, read_yaml
from orchestration.checkpoint import CheckpointStore
from orchestration.journal.json_lines import read_rows
from orchestration.journal.run_files import CHECKPOINT_FOLDER, CONFIG_FILE, EVAL_FILE, METRICS_FILE
from orchestration.journal.run_record import is_complete
from orchestration.run_dir import RunDirError, check_resumable
from orchestration.study.settings import Arm

# new: nothing there; broken: a run that left no checkpoint; stopped: one that can be resumed
State = Literal["new", "broken", "stopped", "finished"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmStatus:
    """An arm and what its folder holds."""

    arm: Arm
    folder: Path
    state: State
    num_iterations: int  # rows in metrics.jsonl


def arm_status(arm: Arm, study_dir: Path) -> ArmStatus:
    """Looks into the arm's folder."""
    folder = study_dir / arm.name
    num_iterations = len(read_rows(folder / METRICS_FILE))
    return ArmStatus(arm=arm, folder=folder, state=_state(arm, folder, num_iterations), num_iterations=num_iterations)


def refuse_other_settings(statuses: Sequence[ArmStatus]) -> None:
    """ConfigError with a line for each folder whose run does not belong to this study."""
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
            check_resumable(status.arm.config, status.folder)
            stored = read_yaml((status.folder / CONFIG_FILE).read_text(encoding="utf-8"))
        except RunDirError as error:
            lines.append(f"{name}: {error}; or name another study_dir")
            continue
        if stored.eval != status.arm.config.eval:
            lines.append(f"{name}: {status.folder} was evaluated with other settings of eval; name another study_dir")
        records = status.arm.records
        if records is not None and not records.exists():
            lines.append(f"{name}: {status.folder} was trained without recording {records}; name another study_dir")
    if lines:
        raise ConfigError(lines)


def run_arguments(status: ArmStatus) -> list[str]:
    """What to write after `python orchestration/run.py` so that the arm is finished."""
    resume = ["resume=true"] if status.state == "stopped" else []
    return [*status.arm.overrides, f"run_dir='{status.folder}'", *resume]


def clear_the_way(status: ArmStatus) -> Path | None:
    """Moves what a broken run left to a free name beside it, and returns that."""
    if status.state != "broken":
        return None
    number = 1
    while (aside := status.folder.with_name(f"{status.folder.name}.broken-{number}")).exists():
        number += 1
    status.folder.rename(aside)
    return aside


def _state(arm: Arm, folder: Path, num_iterations: int) -> State:
    if not folder.is_dir() or not any(folder.iterdir()):
        return "new"
    evals = [int(row["iteration"]) for row in read_rows(folder / EVAL_FILE)]
    if is_complete(arm.config, num_iterations=num_iterations, evals=evals):
        return "finished"
    has_checkpoint = CheckpointStore(folder / CHECKPOINT_FOLDER, keep=1).latest() is not None
    return "stopped" if has_checkpoint else "broken"
