"""Short runs of the public command, for benchmarks that measure a run from outside.

In: settings as on the command line. Out: the rows of metrics.jsonl, durations of iterations, means over rows. Each run
has its own process and its own folder, which is deleted after reading.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from benchmarks.peer_environment import ROOT
from orchestration.journal.json_lines import Row, read_rows
from orchestration.journal.run_files import METRICS_FILE, TRACE_FILE

# Settings without checkpoints but the last, without TensorBoard and with a minimal evaluation.
PLAIN = ("checkpoint.every=1000000", "journal.tensorboard=false", "eval.num_prompts=1")
STILL = ("learner.lr=1e-12", "learner.lr_schedule=constant")  # settings with which the model stays as it starts


def run_seconds(settings: Sequence[str]) -> tuple[list[Row], list[float]]:
    """Rows of `python orchestration/run.py <settings>`, and seconds from each iteration's beginning to the next one's.

    Work between iterations counts too. The last iteration counts to its own end. RuntimeError if the run fails.
    """
    with TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        run_command([sys.executable, "orchestration/run.py", *settings, f"run_dir={run_dir}"])
        events = json.loads((run_dir / TRACE_FILE).read_text(encoding="utf-8"))
        rows = read_rows(run_dir / METRICS_FILE)
    spans = [event for event in events if event["name"] == "iteration"]
    bounds_us = [*(event["ts"] for event in spans), spans[-1]["ts"] + spans[-1]["dur"]]
    return rows, [(b - a) / 1e6 for a, b in pairwise(bounds_us)]


def run_command(command: Sequence[str], *, text: str | None = None, threads: int | None = None) -> None:
    """Runs a command in the root with text on its standard input; RuntimeError has the end of its standard error."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {' '.join(done.stderr.split()[-80:])}")


def means_of(rows: Sequence[Row], names: Iterable[str]) -> dict[str, float]:
    """Mean of each metric over the rows that have it; a metric that no row has is left out."""
    values = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: fmean(found) for name, found in values.items() if found}
