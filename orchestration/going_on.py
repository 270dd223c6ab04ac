"""What a run that ends early has in its folder, and the command that goes on from there.

In: settings, folder and the last complete iteration. Out: the words of the block at the run's end. Trusts the names of
checkpoint folders, which are complete once they have them; a resume checks their content.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from configs.command import settings_to_go_on
from configs.schema import RunConfig
from orchestration.boundary import Boundary
from orchestration.journal.run_files import CHECKPOINT_FOLDER, METRICS_FILE
from orchestration.terminal.ending import Progress

PREFIX = "iteration-"


def progress_of(
    config: RunConfig, run_dir: Path, boundary: Boundary, settings: Sequence[str] | None
) -> Progress | None:
    """How far the run has come; None where nothing has begun yet. settings: as typed, None if nobody did."""
    completed = boundary.completed
    if not (boundary.has_begun or completed):
        return None
    total, newest = config.num_iterations, newest_checkpoint(run_dir / CHECKPOINT_FOLDER)
    safe = f"nothing yet; the first checkpoint comes after checkpoint.every={config.checkpoint.every} iterations"
    if newest is not None:
        safe = f"the state after {int(newest.name.removeprefix(PREFIX))} of {completed} iterations, {newest}"
    command = None
    if settings is not None:
        has_rows = newest is not None or (run_dir / METRICS_FILE).exists()
        words = settings_to_go_on(settings, run_dir=run_dir, resume=has_rows)
        command = shlex.join([*sys.orig_argv[: 1 + len(sys.orig_argv) - len(sys.argv)], *words])
    place = f"iteration {completed + 1} of {total}" if completed < total else "the work after the last iteration"
    return Progress(place=place if boundary.has_begun else "the start", safe=safe, command=command)


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the latest iteration; None where there is none."""
    found = [path for path in folder.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdecimal()]
    return max(found, key=lambda path: int(path.name.removeprefix(PREFIX)), default=None)
