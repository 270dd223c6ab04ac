"""Files of an evaluation, and the continuation of an interrupted one.

In: graded samples, settings, metrics. Out: <set>.jsonl with one row a sample, and summary.json, which has the settings
from the start and the metrics of each set once all of its samples are written. Rows of incomplete problems are removed.
It knows no engine and computes no metric.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from configs.files import write_atomically
from orchestration.journal.eval_rows import EvalSample, in_order, write_samples
from orchestration.journal.json_lines import append_rows, keep_rows, read_rows
from rollout.tasks import Problem

SUMMARY_FILE = "summary.json"
ABSENT = "absent"  # text for a setting that only the other evaluation has
Settings = Mapping[str, Any]  # plain JSON values by dotted name


class EvalRecordError(RuntimeError):
    """Error for a folder with other content than the command expects; one line that says what to change."""


def read_samples(path: Path) -> list[EvalSample]:
    """Samples of a set's file in order, none if there is no file; an incomplete last line does not count."""
    names = {field.name for field in fields(EvalSample)}
    try:
        rows = read_rows(path)
    except ValueError as error:
        raise EvalRecordError(str(error)) from error
    for number, row in enumerate(rows, start=1):
        if row.keys() != names:
            raise EvalRecordError(f"{path}, line {number}: is not a row of an evaluation; repair or remove the file")
    return in_order(EvalSample(**row) for row in rows)


def problems_digest(problems: Sequence[Problem]) -> str:
    """Digest of a set's questions and reference answers, in order; it does not depend on the model's prompts."""
    content = json.dumps([[problem.text, problem.reference_answer] for problem in problems])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


class EvalFolder:
    """The folder of one evaluation; opening it with other settings than it was begun with is refused."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        summary = read_summary(folder)
        has_rows = any(path.stat().st_size for path in folder.glob("*.jsonl"))
        if not has_rows:  # it was stopped before the first problem, so any settings may follow
            summary = None
        elif summary is None:
            raise EvalRecordError(
                f"out={folder}: has rows but no {SUMMARY_FILE} with their settings; name another folder"
            )
        found = summary["settings"] if summary else settings
        if differing := [f"{name}={old}, now {name}={new}" for name, old, new in differences(found, settings)]:
            raise EvalRecordError(
                f"out={folder}: holds an evaluation with {'; '.join(differing)}; leave these settings as they were "
                f"or name another folder with out=..."
            )
        self._settings = dict(settings)
        self._metrics: dict[str, float] = summary["metrics"] if summary else {}
        self._problems: dict[str, str] = summary["problems"] if summary else {}

    def begin(self, name: str, problems: Sequence[Problem], *, num_samples: int) -> list[EvalSample]:
        """Returns the samples of complete problems in the set's file, and removes all other rows from it.

        Raises EvalRecordError if the rows are of other problems than the set's.
        """
        digest = problems_digest(problems)
        if self._problems.setdefault(name, digest) != digest:
            raise EvalRecordError(
                f"out={self.folder}: its rows of {name} are of other problems than the set has now; restore the data "
                f"or name another folder with out=..."
            )
        self._write_summary()
        samples = read_samples(self.path_of(name))
        counts = dict.fromkeys(range(len(problems)), 0)
        for sample in samples:
            counts[sample.problem] += 1
        keep_rows(self.path_of(name), lambda row: counts[row["problem"]] == num_samples)
        return [sample for sample in samples if counts[sample.problem] == num_samples]

    def append(self, name: str, samples: Sequence[EvalSample]) -> None:
        """Appends all samples of one problem; they are on the disk when this returns."""
        append_rows(self.path_of(name), [asdict(sample) for sample in samples])

    def finish(self, name: str, samples: Sequence[EvalSample], metrics: Mapping[str, float]) -> None:
        """Sorts the rows of a complete set and writes its metrics to the summary."""
        write_samples(self.path_of(name), in_order(samples))
        self._metrics.update(metrics)
        self._write_summary()

    def path_of(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"

    def _write_summary(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"metrics": self._metrics, "settings": self._settings, "problems": self._problems}
        write_atomically(self.folder / SUMMARY_FILE, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The content of an evaluation's summary.json, or None if there is none."""
    path = folder / SUMMARY_FILE
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise EvalRecordError(f"{path}: is not readable ({error}); restore or remove it") from error
    if not isinstance(summary, dict) or not {"metrics", "settings", "problems"} <= summary.keys():
        raise EvalRecordError(f"{path}: is not the summary of an evaluation; name another folder")
    return summary


def differences(before: Settings, now: Settings) -> list[tuple[str, Any, Any]]:
    """(name, value before, value now) of every setting that differs."""
    names = dict.fromkeys([*before, *now])
    values = [(name, before.get(name, ABSENT), now.get(name, ABSENT)) for name in names]
    return [(name, old, new) for name, old, new in values if old != new]
