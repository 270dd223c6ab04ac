"""The JSON Lines files of a run: metrics.jsonl, rollouts.jsonl, and eval.jsonl with the samples of each evaluation.

Each file is a sink. When it opens the file of a resumed run it moves rows that were written after the checkpoint to
*.dropped.jsonl. docs/metrics.md describes the rows. What an iteration costs does not depend on how many came before.
"""

import shutil
from collections.abc import Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from orchestration.journal.entry import JournalError
from orchestration.journal.eval_rows import Evaluation, write_samples
from orchestration.journal.json_lines import append_rows, discard_rows, iterate_rows, keep_rows
from orchestration.journal.run_files import EVAL_FILE, METRICS_FILE, ROLLOUTS_FILE
from orchestration.journal.sink import Row, Sink
from rollout.contract import GradedGroup

EVALS_FOLDER = "evals"


class MetricsFile(Sink):
    """metrics.jsonl, one row an iteration. JournalError where rows before start_iteration are missing."""

    def __init__(self, run_dir: Path, *, start_iteration: int) -> None:
        self._path = run_dir / METRICS_FILE
        keep_rows(self._path, lambda row: row["iteration"] < start_iteration)
        self.last_row: Row = {}  # the last one before start_iteration
        found = []
        for row in iterate_rows(self._path):
            found.append(int(row["iteration"]))
            self.last_row = row
        if found != list(range(start_iteration)):
            raise JournalError(
                f"{self._path}: a resume at iteration {start_iteration} needs one row for each iteration before it "
                f"and found {len(found)}; restore the file or start a new run"
            )

    def write_row(self, row: Row) -> None:
        append_rows(self._path, [row])


class RolloutsFile(Sink):
    """rollouts.jsonl, the first num_groups groups of every n-th iteration in full text.

    n is 1 until the file has limit_bytes. Then, and whenever it has them again, n doubles and the other iterations
    leave the file, so that what remains covers the run evenly and includes iteration 0. Rows are written before the
    update, so that they can be read if it fails.
    """

    def __init__(self, run_dir: Path, *, start_iteration: int, num_groups: int, limit_bytes: int) -> None:
        self._path = run_dir / ROLLOUTS_FILE
        self._num_groups = num_groups
        self._limit_bytes = limit_bytes
        keep_rows(self._path, lambda row: row["iteration"] < start_iteration)
        recorded = dict.fromkeys(int(row["iteration"]) for row in iterate_rows(self._path))
        self._every = min((after - before for before, after in pairwise(recorded)), default=1)

    def write_groups(self, iteration: int, groups: Sequence[GradedGroup], *, policy_version: int) -> None:
        if iteration % self._every or not self._num_groups:
            return
        append_rows(self._path, [_rollout_row(item, iteration, policy_version) for item in groups[: self._num_groups]])
        if self._path.stat().st_size > self._limit_bytes:
            self._every *= 2
            discard_rows(self._path, lambda row: row["iteration"] % self._every == 0)


class EvalFiles(Sink):
    """eval.jsonl, and the samples of each evaluation in evals/<iteration>/<set>.jsonl.

    A resume repeats the evaluation at its checkpoint: the new one replaces the row with the same iteration and names.
    Samples beyond limit_bytes are deleted from the oldest evaluation on, without the first and the last one.
    """

    def __init__(self, run_dir: Path, *, start_iteration: int, limit_bytes: int) -> None:
        self._path = run_dir / EVAL_FILE
        self._folder = run_dir / EVALS_FOLDER
        self._limit_bytes = limit_bytes
        keep_rows(self._path, lambda row: row["iteration"] <= start_iteration)
        rows = (row for row in iterate_rows(self._path) if row["iteration"] == start_iteration)
        self._last: tuple[int, list[Any]] = (start_iteration, [row.keys() for row in rows])
        folders = self._folder.iterdir() if self._folder.is_dir() else ()
        numbers = sorted(int(one.name) for one in folders if one.name.isdigit())
        self._bytes = {number: _size(self._folder / str(number)) for number in numbers}
        self._num_bytes = sum(self._bytes.values())

    def write_evaluation(self, iteration: int, evaluation: Evaluation) -> None:
        folder = self._folder / str(iteration)
        for name, samples in evaluation.samples.items():
            folder.mkdir(parents=True, exist_ok=True)
            write_samples(folder / f"{name}.jsonl", samples)
        if evaluation.samples:
            self._num_bytes += _size(folder) - self._bytes.get(iteration, 0)
            self._bytes[iteration] = _size(folder)
            self._delete_old()
        row = {"iteration": iteration, **evaluation.metrics}
        written = self._last[1] if self._last[0] == iteration else []
        if row.keys() in written:
            keep_rows(self._path, lambda old: old["iteration"] != iteration or old.keys() != row.keys())
        append_rows(self._path, [row])
        self._last = (iteration, [*written, row.keys()])

    def _delete_old(self) -> None:
        while len(self._bytes) > 2 and self._num_bytes > self._limit_bytes:
            number = next(islice(self._bytes, 1, None))
            shutil.rmtree(self._folder / str(number))
            self._num_bytes -= self._bytes.pop(number)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _rollout_row(item: GradedGroup, iteration: int, policy_version: int) -> dict[str, Any]:
    """One group in full text, with rewards."""
    prompt = item.group.prompt
    return {
        "iteration": iteration,
        "policy_version": policy_version,
        "position": prompt.position,
        "prompt": prompt.text,
        "reference_answer": prompt.reference_answer,
        "source": prompt.source,
        "engine_index": item.group.engine_index,
        "generate_s": item.group.generate_s,
        "completions": [
            {
                "text": completion.text,
                "reward": verdict.total,
                "rewards": verdict.values,
                "num_tokens": completion.tokens.num_sampled,
                "finished": completion.finished,
                "min_policy_version": completion.tokens.min_policy_version,
                "max_policy_version": completion.tokens.max_policy_version,
            }
            for completion, verdict in zip(item.group.completions, item.verdicts, strict=True)
        ],
    }
