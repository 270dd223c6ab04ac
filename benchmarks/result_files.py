"""Arguments, console and result files that the benchmarks' commands share.

In: the name of a benchmark. Out: a parser with --json; a console beside a log, with the file for the figures.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from rich.console import Console

from orchestration.terminal.console import print_line, redirect_output

RESULTS = Path("benchmarks/results")


def benchmark_parser(module: str, description: str | None, *, name: str) -> argparse.ArgumentParser:
    """The parser of `python -m benchmarks.<module>`; name: prefix of the files of its figures."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, help=f"file for the figures (default {RESULTS}/{name}-<time>.json)")
    return parser


def result_path(given: Path | None, *, name: str) -> Path:
    """The given file, or a new one named by the time; its folder is created."""
    target = given or RESULTS / f"{name}-{datetime.now():%Y-%m-%d-%H%M%S}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


@contextmanager
def figures_at(given: Path | None, *, name: str) -> Iterator[tuple[Console, Path]]:
    """A console, and the file for the figures (see result_path), which the last line of output names.

    All other output goes to a log beside that file.
    """
    target = result_path(given, name=name)
    with redirect_output(target.with_suffix(".log")) as console:
        yield console, target
        print_line(console, f"figures in {target}")


def write_figures(target: Path, figures: object) -> None:
    """Writes the figures as indented JSON."""
    target.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
