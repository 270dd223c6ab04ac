"""Arguments, console, tables, curves and result files that the benchmarks' commands share."""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from orchestration.pages.figures import Line, Panel
from orchestration.terminal.console import print_line, redirect_output

RESULTS = Path("benchmarks/results")
FILE_WIDTH = 116  # width of a table in characters if no terminal limits it


def benchmark_parser(name: str, description: str | None, *, files: str = "") -> argparse.ArgumentParser:
    """The parser of `python -m benchmarks.<name>` with --json; files: prefix of its result files, if not the name."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    target = RESULTS / f"{files or name}-{datetime.now():%Y-%m-%d-%H%M%S}.json"
    text = f"file for the figures (default {RESULTS}/{files or name}-<time>.json)"
    parser.add_argument("--json", type=Path, default=target, help=text)
    return parser


@contextmanager
def figures_at(target: Path) -> Iterator[Console]:
    """A console of a benchmark that writes its figures to target, which the last line of output names.

    All other output goes to a log beside that file. Its folder is created.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with redirect_output(target.with_suffix(".log")) as console:
        yield console
        print_line(console, f"figures in {target}")


def write_figures(target: Path, figures: object) -> None:
    """Writes the figures as indented JSON."""
    target.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def print_table(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, text: Sequence[str] = ()
) -> None:
    """Prints a table, wide if the output is a file; its columns hold numbers, except for those named in `text`."""
    table = Table(title=title, box=None, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="left" if column in text else "right", no_wrap=column in text)
    for row in rows:
        table.add_row(*row)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    console.print(table)


def median_and_range(values: Sequence[float], form: str) -> tuple[str, str]:
    """Texts of the median, and of minimum and maximum."""
    return form.format(median(values)), f"{form.format(min(values))} - {form.format(max(values))}"


def curves_panel(title: str, unit: str, runs: Mapping[str, Sequence[Sequence[float]]]) -> Panel:
    """Panel of a metric over the iterations: by name the mean over runs of one length, with a band over all of them."""
    lines = []
    for name, of_runs in runs.items():
        rows = np.array(of_runs)  # [runs, iterations]
        x, y, low, high = np.arange(1, rows.shape[1] + 1), rows.mean(axis=0), rows.min(axis=0), rows.max(axis=0)
        lines.append(Line(name=name, style=0, x=x, y=y, low=low, high=high))
    return Panel(title=title, unit=unit, log=False, lines=tuple(lines))
