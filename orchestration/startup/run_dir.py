"""The folder of a run: chosen, created and owned while the run lives.

In: the run's configuration. Out: the absolute path of a new folder or, with resume=true, of the run to continue; a
refused run leaves nothing. Reads folder names and whether a folder holds a run; journal and checkpoint store own
everything else inside.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from configs.loading import ConfigError
from configs.schema import RunConfig
from orchestration.journal.run_files import CHECKPOINT_FOLDER, CONFIG_FILE, LOG_FILE, METRICS_FILE
from orchestration.startup.folders import is_empty, next_free, numbered, refusing_unwritable, remove_empty
from orchestration.startup.ownership import interrupt, own


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnedRun:
    """The folder that a run owns."""

    folder: Path
    notices: tuple[str, ...]  # lines about dead owners that it was taken over from


@contextmanager
def own_run_dir(
    config: RunConfig, *, root: Path = Path("runs"), on_lost: Callable[[BaseException], None] = interrupt
) -> Iterator[OwnedRun]:
    """Owns the run's folder, and that of rollout.record, inside the block.

    run_dir="auto" means root/<task>-<gate>-seed<seed>-NNN. NNN is one above the highest number in use for a new run,
    and the highest number with a run for resume=true. ConfigError where a new run's folder holds a run already, there
    is no run to resume, the folder cannot be written, or another process owns it (see ownership.py for on_lost).
    A ConfigError that leaves the block removes a new folder that holds no run yet.
    """
    with ExitStack() as undo:
        folder = _choose(config, root, undo)
        notices = undo.enter_context(own(folder, setting="run_dir", on_lost=on_lost))
        _refuse_other_content(config, folder)  # once it is owned: the run in it may have ended just now
        is_new = is_empty(folder)
        if config.rollout.record is not None:
            record = own(Path(config.rollout.record), setting="rollout.record", on_lost=on_lost)
            notices += undo.enter_context(record)
        try:
            yield OwnedRun(folder=folder, notices=notices)
        except ConfigError:
            if is_new and not holds_run(folder):
                for name in (CONFIG_FILE, LOG_FILE):
                    (folder / name).unlink(missing_ok=True)
            raise


def holds_run(folder: Path) -> bool:
    """Whether a run has begun in the folder."""
    return (folder / METRICS_FILE).exists() or (folder / CHECKPOINT_FOLDER).exists()


def _choose(config: RunConfig, root: Path, undo: ExitStack) -> Path:
    """The folder; a numbered one is created, and `undo` removes it again where it stays empty."""
    if config.run_dir != "auto":
        folder = Path(config.run_dir)
        with refusing_unwritable(f"run_dir={folder}"):
            if config.resume and not folder.is_dir():
                _refuse_other_content(config, folder)
            return folder.resolve()
    stem = f"{config.task.name}-{config.gate.name}-seed{config.seed}"
    with refusing_unwritable(f"run_dir={root / stem}-NNN"):
        if not config.resume:
            created = next_free(root, stem)
            undo.callback(remove_empty, created)
            return created[0].resolve()
        runs = {number: folder for number, folder in numbered(root, stem).items() if holds_run(folder)}
    if not runs:
        raise ConfigError([f"resume=true: no run at {root / stem}-* to resume; set run_dir=<folder> or leave it out"])
    return runs[max(runs)].resolve()


def _refuse_other_content(config: RunConfig, folder: Path) -> None:
    if config.resume and not holds_run(folder):
        raise ConfigError([f"run_dir={folder}: holds no run to resume; check the path or leave out resume=true"])
    if not config.resume and holds_run(folder):
        raise ConfigError(
            [f"run_dir={folder}: holds a run already; set resume=true to continue it or name another folder"]
        )
