"""Two evaluations of the same problems, compared by paired bootstrap over problems.

In: two folders with rows, of the command or of a run (runs/<name>/evals/<iteration>). Out: the difference of pass@1 of
each set, with interval and p value, or an EvalRecordError that says why the two cannot be paired. Starts nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestration.evaluate.records import EvalRecordError, differences, read_samples, read_summary
from orchestration.evaluate.summary import BOOTSTRAP_SEED, correct_counts
from orchestration.journal.eval_rows import EvalSample
from orchestration.statistics.bootstrap import PairedDifference, paired_bootstrap


@dataclass(frozen=True, kw_only=True, slots=True)
class SetComparison:
    """One set: both accuracies and their difference, first - second."""

    name: str
    num_problems: int
    first: float  # pass@1
    second: float
    difference: PairedDifference


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """All sets, and what else was different between the two."""

    sets: tuple[SetComparison, ...]
    settings: tuple[tuple[str, Any, Any], ...]  # name, value of the first, of the second; only where they differ


@dataclass(frozen=True, kw_only=True, slots=True)
class _Side:
    """One evaluation as it lies on disk."""

    folder: Path
    samples: dict[str, list[EvalSample]]  # by set
    problems: dict[str, str]  # digests by set; empty for the evaluations of a run
    settings: dict[str, Any]


def compare_folders(first: Path, second: Path) -> Comparison:
    """Every set of both; refused where sets or problems differ, or where an evaluation is not finished."""
    sides = (_read(first), _read(second))
    names, others = (set(side.samples) for side in sides)
    if names != others:
        told = " and ".join(f"{side.folder} has {', '.join(sorted(side.samples))}" for side in sides)
        raise EvalRecordError(f"compare: {told}; evaluate both on the same sets")
    compared = [_compare(name, *sides) for name in sides[0].samples]
    known = all(side.settings for side in sides)  # an evaluation of a run has its settings in the run's config.yaml
    return Comparison(
        sets=tuple(compared), settings=tuple(differences(sides[0].settings, sides[1].settings) if known else ())
    )


def _read(folder: Path) -> _Side:
    summary = read_summary(folder)
    paths = sorted(path for path in folder.glob("*.jsonl") if not path.name.endswith(".dropped.jsonl"))
    samples = {path.stem: read_samples(path) for path in paths}
    if not any(samples.values()):
        raise EvalRecordError(f"compare: {folder} holds no evaluation; name a folder with <set>.jsonl in it")
    if summary is not None:
        for name in summary["problems"]:
            if f"eval/{name}/pass@1" not in summary["metrics"]:
                raise EvalRecordError(
                    f"compare: the evaluation of {name} in {folder} is not finished; give its command again"
                )
    return _Side(
        folder=folder,
        samples=samples,
        problems=summary["problems"] if summary else {},
        settings=summary["settings"] if summary else {},
    )


def _compare(name: str, first: _Side, second: _Side) -> SetComparison:
    _refuse_other_problems(name, first, second)
    shares = []
    for side in (first, second):
        correct, num_samples = correct_counts(side.samples[name])
        shares.append(correct / num_samples)
    return SetComparison(
        name=name,
        num_problems=len(shares[0]),
        first=float(shares[0].mean()),
        second=float(shares[1].mean()),
        difference=paired_bootstrap(*shares, seed=BOOTSTRAP_SEED),
    )


def _refuse_other_problems(name: str, first: _Side, second: _Side) -> None:
    """By the digests of the questions; without them by the prompts, which are a model's own where it has a template."""
    if name in first.problems and name in second.problems:
        if first.problems[name] == second.problems[name]:
            return
    elif _problems(first.samples[name]) == _problems(second.samples[name]):
        return
    numbers = [len(_problems(side.samples[name])) for side in (first, second)]
    counts = f" ({numbers[0]} and {numbers[1]})" if numbers[0] != numbers[1] else ""
    raise EvalRecordError(
        f"compare: {name} has other problems in {first.folder} than in {second.folder}{counts}; evaluate both on the "
        f"same data and eval.num_prompts"
    )


def _problems(samples: Sequence[EvalSample]) -> list[tuple[int, str, str]]:
    return [(sample.problem, sample.prompt, sample.reference) for sample in samples if sample.sample == 0]
