"""Short runs of the public command, for benchmarks that look at a run from outside.

In: settings as on the command line. Out: the rows of its metrics.jsonl, and means over them. Each run has a process of
its own and a folder that goes when it has been read.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from benchmarks.peer_environment import ROOT
from reports.json_lines import Row, read_rows
from reports.run_files import METRICS_FILE

# No checkpoint but the last, no second record of the metrics, no evaluation to speak of.
PLAIN = ("checkpoint.every=1000000", "journal.tensorboard=false", "eval.num_prompts=1")


def run_rows(settings: Sequence[str]) -> list[Row]:
    """One row an iteration of `python orchestration/run.py <settings>`; RuntimeError where the run fails."""
    with TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        run_command([sys.executable, "orchestration/run.py", *settings, f"run_dir={run_dir}"])
        return read_rows(run_dir / METRICS_FILE)


def run_command(command: Sequence[str], *, text: str | None = None, threads: int | None = None) -> None:
    """Runs a command from the root, text on its standard input; RuntimeError with the end of what it complained."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {' '.join(done.stderr.split()[-80:])}")


def mean_of(rows: Sequence[Row], name: str) -> float | None:
    """Mean over the rows that have the metric; None where none has."""
    values = [row[name] for row in rows if name in row]
    return fmean(values) if values else None
