"""The JSON Lines files of a run: metrics.jsonl, rollouts.jsonl, and eval.jsonl with the samples of each evaluation.

Each file is a sink. When it opens the file of a resumed run it moves rows that were written after the checkpoint to
*.dropped.jsonl. docs/metrics.md describes the rows.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestration.journal.entry import JournalError
from orchestration.journal.eval_rows import Evaluation, write_samples
from orchestration.journal.json_lines import append_rows, keep_rows, read_rows
from orchestration.journal.run_files import EVAL_FILE, METRICS_FILE, ROLLOUTS_FILE
from orchestration.journal.sink import Row, Sink
from rollout.contract import GradedGroup

EVALS_FOLDER = "evals"


class MetricsFile(Sink):
    """metrics.jsonl, one row an iteration. JournalError where rows before start_iteration are missing."""

    def __init__(self, run_dir: Path, *, start_iteration: int) -> None:
        self._path = run_dir / METRICS_FILE
        keep_rows(self._path, lambda row: row["iteration"] < start_iteration)
        rows = read_rows(self._path)
        if [int(row["iteration"]) for row in rows] != list(range(start_iteration)):
            raise JournalError(
                f"{self._path}: a resume at iteration {start_iteration} needs one row for each iteration before it "
                f"and found {len(rows)}; restore the file or start a new run"
            )
        self.last_row: Row = rows[-1] if rows else {}  # the last one before start_iteration

    def write_row(self, row: Row) -> None:
        append_rows(self._path, [row])


class RolloutsFile(Sink):
    """rollouts.jsonl, the first `limit` groups of each iteration in full text.

    They are written before the update, so that they can be read if it fails.
    """

    def __init__(self, run_dir: Path, *, start_iteration: int, limit: int) -> None:
        self._path = run_dir / ROLLOUTS_FILE
        self._limit = limit
        keep_rows(self._path, lambda row: row["iteration"] < start_iteration)

    def write_groups(self, iteration: int, groups: Sequence[GradedGroup], *, policy_version: int) -> None:
        append_rows(self._path, [_rollout_row(item, iteration, policy_version) for item in groups[: self._limit]])


class EvalFiles(Sink):
    """eval.jsonl, and the samples of each evaluation in evals/<iteration>/<set>.jsonl.

    A resume repeats the evaluation at its checkpoint: the new one replaces the row with the same iteration and names.
    """

    def __init__(self, run_dir: Path, *, start_iteration: int) -> None:
        self._path = run_dir / EVAL_FILE
        self._folder = run_dir / EVALS_FOLDER
        keep_rows(self._path, lambda row: row["iteration"] <= start_iteration)

    def write_evaluation(self, iteration: int, evaluation: Evaluation) -> None:
        for name, samples in evaluation.samples.items():
            folder = self._folder / str(iteration)
            folder.mkdir(parents=True, exist_ok=True)
            write_samples(folder / f"{name}.jsonl", samples)
        row = {"iteration": iteration, **evaluation.metrics}
        keep_rows(self._path, lambda old: old["iteration"] != iteration or old.keys() != row.keys())
        append_rows(self._path, [row])


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
