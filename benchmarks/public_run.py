"""Short runs of the public command, for benchmarks that look at a run from outside.

In: settings as on the command line. Out: the rows of its metrics.jsonl, what its iterations took, means over rows. Each
run has a process of its own and a folder that goes when it has been read.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from benchmarks.peer_environment import ROOT
from orchestration.journal.json_lines import Row, read_rows
from orchestration.journal.run_files import METRICS_FILE, TRACE_FILE

# No checkpoint but the last, no second record of the metrics, no evaluation to speak of.
PLAIN = ("checkpoint.every=1000000", "journal.tensorboard=false", "eval.num_prompts=1")


def run_rows(settings: Sequence[str]) -> list[Row]:
    """One row an iteration of `python orchestration/run.py <settings>`; RuntimeError where the run fails."""
    with _run(settings) as run_dir:
        return read_rows(run_dir / METRICS_FILE)


def run_seconds(settings: Sequence[str]) -> tuple[list[Row], list[float]]:
    """The same rows, and seconds from the begin of each iteration to that of the next: what lies between counts too.

    For the last iteration, to its end.
    """
    with _run(settings) as run_dir:
        events = json.loads((run_dir / TRACE_FILE).read_text(encoding="utf-8"))
        spans = [event for event in events if event["name"] == "iteration"]
        bounds_us = [*(event["ts"] for event in spans), spans[-1]["ts"] + spans[-1]["dur"]]
        return read_rows(run_dir / METRICS_FILE), [(b - a) / 1e6 for a, b in pairwise(bounds_us)]


@contextmanager
def _run(settings: Sequence[str]) -> Iterator[Path]:
    """The folder of a finished run."""
    with TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        run_command([sys.executable, "orchestration/run.py", *settings, f"run_dir={run_dir}"])
        yield run_dir


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
