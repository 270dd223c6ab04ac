"""Comparison of two evaluations of the same problems, by paired bootstrap over problems.

In: two folders with rows, of the command or of a run (runs/<name>/evals/<iteration>). Out: the difference of pass@1 on
each set, with interval and p value, or an EvalRecordError with the reason why the two cannot be paired. Starts nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestration.evaluate.records import EvalRecordError, differences, read_samples, read_summary
from orchestration.evaluate.summary import BOOTSTRAP_SEED, correct_counts
from orchestration.journal.eval_rows import EvalSample
from orchestration.statistics.bootstrap import PairedDifference, paired_bootstrap
from orchestration.terminal.console import new_table, print_line


@dataclass(frozen=True, kw_only=True, slots=True)
class SetComparison:
    """Both accuracies on one set and their difference, first - second."""

    name: str
    num_problems: int
    first: float  # pass@1 of the first evaluation
    second: float
    difference: PairedDifference


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The comparison of two evaluations: all sets, and the settings that differ."""

    sets: tuple[SetComparison, ...]
    settings: tuple[tuple[str, Any, Any], ...]  # (name, value of the first, of the second) of settings that differ


@dataclass(frozen=True, kw_only=True, slots=True)
class _Side:
    """One evaluation, read from disk."""

    folder: Path
    samples: dict[str, list[EvalSample]]  # samples by set
    problems: dict[str, str]  # digests of the problems by set; empty for the evaluations of a run
    settings: dict[str, Any]


def compare_folders(first: Path, second: Path) -> Comparison:
    """Compares every set; refuses other sets, other problems and an unfinished evaluation."""
    sides = (_read(first), _read(second))
    names, others = (set(side.samples) for side in sides)
    if names != others:
        found = " and ".join(f"{side.folder} has {', '.join(sorted(side.samples))}" for side in sides)
        raise EvalRecordError(f"compare: {found}; evaluate both on the same sets")
    settings = [side.settings for side in sides]
    return Comparison(
        sets=tuple(_compare(name, *sides) for name in sides[0].samples),
        settings=tuple(differences(*settings) if all(settings) else ()),
    )


def comparison_table(comparison: Comparison) -> Table:
    """Table with one row a set: pass@1 of A and B, A - B in percentage points with interval, p value."""
    table = new_table("set", "problems", "A", "B", "A - B (points)", "95 %", "p")
    for found in comparison.sets:
        difference = found.difference
        table.add_row(
            found.name,
            f"{found.num_problems:,}",
            f"{found.first:.1%}",
            f"{found.second:.1%}",
            f"{100 * difference.mean:+.1f}",
            f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}",
            f"{difference.p_value:.2g}" if difference.p_value >= 0.001 else "< 0.001",
        )
    return table


def print_comparison(first: Path, second: Path) -> None:
    """Compares and prints which folder is A and which B, the settings that differ, and the table."""
    comparison, console = compare_folders(first, second), Console()
    for letter, name in (("A", first), ("B", second)):
        print_line(console, f"{letter} = {name}")
    for setting, value, other in comparison.settings:
        print_line(console, f"{setting}: A {value}, B {other}")
    console.print(comparison_table(comparison))


def _read(folder: Path) -> _Side:
    summary = read_summary(folder)
    paths = sorted(path for path in folder.glob("*.jsonl") if not path.name.endswith(".dropped.jsonl"))
    samples = {path.stem: read_samples(path) for path in paths}
    if not any(samples.values()):
        raise EvalRecordError(f"compare: {folder} holds no evaluation; name a folder with <set>.jsonl in it")
    summary = summary or {"problems": {}, "settings": {}}  # a run's evaluation has its settings in config.yaml
    for name in summary["problems"]:
        if f"eval/{name}/pass@1" not in summary["metrics"]:
            raise EvalRecordError(f"compare: the evaluation of {name} in {folder} is not finished; repeat its command")
    return _Side(folder=folder, samples=samples, problems=summary["problems"], settings=summary["settings"])


def _compare(name: str, first: _Side, second: _Side) -> SetComparison:
    """Compares one set; refuses other problems, by the digests of the questions or, without digests, by the prompts.

    The prompts of the same problems differ between models with different chat templates.
    """
    sides = (first, second)
    asked = [
        [(each.problem, each.prompt, each.reference) for each in side.samples[name] if each.sample == 0]
        for side in sides
    ]
    have_digests = all(name in side.problems for side in sides)
    if first.problems[name] != second.problems[name] if have_digests else asked[0] != asked[1]:
        numbers = [len(problems) for problems in asked]
        counts = f" ({numbers[0]} and {numbers[1]})" if numbers[0] != numbers[1] else ""
        raise EvalRecordError(
            f"compare: {name} has other problems in {first.folder} than in {second.folder}{counts}; evaluate both on "
            f"the same data and eval.num_prompts"
        )
    shares = [correct / num_samples for correct, num_samples in (correct_counts(side.samples[name]) for side in sides)]
    return SetComparison(
        name=name,
        num_problems=len(shares[0]),
        first=float(shares[0].mean()),
        second=float(shares[1].mean()),
        difference=paired_bootstrap(*shares, seed=BOOTSTRAP_SEED),
    )
