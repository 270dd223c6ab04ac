"""The record of a finished or stopped run, read from its folder for a report.

In: a run's folder. Out: a frozen RunRecord with its settings, rows, evaluations, prompts and some completions. Reads
only the files that docs/metrics.md describes; computes no statistics.
"""

import hashlib
import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from configs.loading import ConfigError, read_yaml
from configs.schema import RunConfig
from orchestration.journal.json_lines import read_rows
from orchestration.journal.run_files import (
    CONFIG_FILE,
    EVAL_FILE,
    METRICS_FILE,
    NOTICES_FILE,
    ROLLOUTS_FILE,
    reward_metrics,
)
from orchestration.journal.sink import Row

LAST = 10  # iterations whose mean is the value "at the end"


class RecordError(RuntimeError):
    """A folder holds no run that can be reported; the message gives the reason."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleCompletion:
    """One completion in full text. The model wrote the text: treat it as untrusted."""

    text: str
    reward: float
    num_tokens: int
    finished: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleGroup:
    """One prompt with its completions."""

    iteration: int
    prompt: str
    reference_answer: str
    completions: tuple[SampleCompletion, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """The settings and results of one run."""

    folder: Path
    config: RunConfig
    rows: tuple[Row, ...]  # rows of metrics.jsonl, one for each iteration
    evals: Mapping[int, Row]  # metrics eval/<set>/... by the number of iterations trained before
    prompts: Mapping[int, str]  # digest of the text of each prompt in rollouts.jsonl, by its position in the stream
    first_completions: Mapping[int, str]  # digest of its completions in iteration 0, which the initial model sampled
    samples: tuple[SampleGroup, ...]
    notices: tuple[str, ...]  # notices of the log on gate, task and set-up

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def is_finished(self) -> bool:
        return is_complete(self.config, num_iterations=len(self.rows), evals=self.evals)

    def reward_metrics(self) -> dict[str, str]:
        """Metrics of the single rewards by the rewards' names."""
        return reward_metrics(metric for row in self.rows for metric in row)

    def series(self, metric: str) -> dict[int, float]:
        """Values of the metric by iteration; rows without it are absent."""
        return {int(row["iteration"]): row[metric] for row in self.rows if metric in row}


def is_complete(config: RunConfig, *, num_iterations: int, evals: Container[int]) -> bool:
    """Whether a run with that number of rows and these evaluations has nothing left to do."""
    wanted = config.num_iterations
    return num_iterations >= wanted and (wanted in evals or not config.evaluates)


def read_run(folder: Path) -> RunRecord:
    """The record of the run in the folder; RecordError where there is none or it cannot be read."""
    path = folder / CONFIG_FILE
    try:
        config = read_yaml(path.read_text(encoding="utf-8"))
        rows = read_rows(folder / METRICS_FILE)
        evals: dict[int, dict[str, float]] = {}
        for row in read_rows(folder / EVAL_FILE):
            evals.setdefault(int(row.pop("iteration")), {}).update(row)
        notices = tuple(dict.fromkeys(row["text"] for row in read_rows(folder / NOTICES_FILE)))
    except FileNotFoundError:
        raise RecordError(f"{folder}: holds no run ({CONFIG_FILE} is missing); name a run's folder") from None
    except ConfigError as error:
        raise RecordError(f"{path}: {'; '.join(error.lines)}; report with the version that wrote it") from None
    except ValueError as error:
        raise RecordError(str(error)) from None
    prompts, first_completions, samples = _read_rollouts(folder / ROLLOUTS_FILE)
    return RunRecord(
        folder=folder,
        config=config,
        rows=tuple(rows),
        evals=evals,
        prompts=prompts,
        first_completions=first_completions,
        samples=samples,
        notices=notices,
    )


def _read_rollouts(path: Path) -> tuple[dict[int, str], dict[int, str], tuple[SampleGroup, ...]]:
    """Digests of prompts and first completions, and the first group of three iterations; keeps no other text."""
    prompts: dict[int, str] = {}
    first_completions: dict[int, str] = {}
    places: dict[int, int] = {}  # offset of the first row of each iteration, bytes
    for offset, row in _rollout_rows(path):
        prompts[row["position"]] = _digest([row["prompt"]])
        places.setdefault(row["iteration"], offset)
        if row["iteration"] == 0:
            first_completions[row["position"]] = _digest([each["text"] for each in row["completions"]])
    iterations = sorted(places)
    chosen = sorted({iterations[0], iterations[len(iterations) // 2], iterations[-1]}) if iterations else []
    return prompts, first_completions, tuple(_sample(path, places[iteration]) for iteration in chosen)


def _rollout_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Offset and content of each row, without a last line that a crash has cut."""
    if not path.exists():
        return
    with path.open("rb") as file:
        offset = 0
        for line in file:
            if line.endswith(b"\n"):
                yield offset, json.loads(line)
            offset += len(line)


def _sample(path: Path, offset: int) -> SampleGroup:
    with path.open("rb") as file:
        file.seek(offset)
        row = json.loads(file.readline())
    names = [field.name for field in fields(SampleCompletion)]
    completions = tuple(SampleCompletion(**{name: each[name] for name in names}) for each in row["completions"])
    return SampleGroup(
        iteration=row["iteration"],
        prompt=row["prompt"],
        reference_answer=row["reference_answer"],
        completions=completions,
    )


def _digest(texts: list[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def combined_digest(digests: Mapping[int, str]) -> str:
    """One short digest of many, in the order of their positions."""
    text = "".join(f"{position}:{digests[position]}\n" for position in sorted(digests))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
