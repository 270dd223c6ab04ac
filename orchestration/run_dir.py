"""Where a run writes: chooses and creates its folder.

In: the run's configuration. Out: an absolute path that either is new or, with resume=true, holds the run to continue.
It looks only at names and at whether a folder holds a run; what is inside belongs to the journal and the checkpoint
store.
"""

import re
from pathlib import Path

from configs.schema import RunConfig

METRICS_FILE = "metrics.jsonl"
CHECKPOINT_FOLDER = "checkpoints"


class RunDirError(RuntimeError):
    """The run cannot use the folder it was given; the message is one line and says what to change."""


def resolve_run_dir(config: RunConfig, *, root: Path = Path("runs")) -> Path:
    """The folder of this run, created if it is new.

    run_dir="auto" means root/<task>-<gate>-seed<seed>-NNN: one above the highest number in use for a new run, the
    highest number that holds a run for resume=true. Raises RunDirError rather than write over a run or resume from
    nothing.
    """
    if config.run_dir != "auto":
        return _explicit(Path(config.run_dir), resume=config.resume)
    stem = f"{config.task.name}-{config.gate.name}-seed{config.seed}"
    return _newest(root, stem) if config.resume else _next_free(root, stem)


def _explicit(folder: Path, *, resume: bool) -> Path:
    if folder.exists() and not folder.is_dir():
        raise RunDirError(f"run_dir={folder}: is not a folder; name another one")
    if resume and not _holds_run(folder):
        raise RunDirError(f"run_dir={folder}: holds no run to resume; check the path or leave out resume=true")
    if not resume and _holds_run(folder):
        raise RunDirError(
            f"run_dir={folder}: holds a run already; set resume=true to continue it or name another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def _newest(root: Path, stem: str) -> Path:
    runs = {number: folder for number, folder in _numbered(root, stem).items() if _holds_run(folder)}
    if not runs:
        raise RunDirError(f"resume=true: no run at {root / stem}-* to resume; set run_dir=<folder> or leave it out")
    return runs[max(runs)].resolve()


def _next_free(root: Path, stem: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    number = max(_numbered(root, stem), default=0) + 1
    while True:
        folder = root / f"{stem}-{number:03d}"
        try:
            folder.mkdir()
        except FileExistsError:  # another run started at the same moment took the number
            number += 1
        else:
            return folder.resolve()


def _numbered(root: Path, stem: str) -> dict[int, Path]:
    pattern = re.compile(re.escape(stem) + r"-(\d{3,})")
    matches = ((pattern.fullmatch(folder.name), folder) for folder in (root.iterdir() if root.is_dir() else ()))
    return {int(match[1]): folder for match, folder in matches if match}


def _holds_run(folder: Path) -> bool:
    return (folder / METRICS_FILE).exists() or (folder / CHECKPOINT_FOLDER).exists()
