"""The console lines and the progress bar of a run.

In: rows of metrics. Out: one line of text each, with units, and a progress bar. `redirect_output` reserves the terminal
for these lines: all other output of this process, its libraries and its children on file descriptors 1 and 2 goes to
run.log. Nothing here computes a metric.
"""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from orchestration.journal.run_files import reward_metrics

# Name in metrics.jsonl and format of the value in the line of an iteration; metrics that a row lacks are left out. The
# single rewards are inserted after the first entry.
ITERATION_COLUMNS = (
    ("reward/mean", "reward {:.2f} points"),
    ("gate/eur", "EUR {:.1%}"),
    ("policy/entropy", "entropy {:.3f} nats"),
    ("throughput/tokens_per_s", "{:,.0f} tokens/s"),
    ("completion/length_mean", "length {:.1f} tokens"),
    ("staleness/mean", "staleness {:.1f} versions"),
    ("time/iteration_s", "{:.2f} s"),
)
BAR_METRICS = ("reward/mean", "gate/eur", "policy/entropy", "throughput/tokens_per_s")  # as many as fit 80 characters


@contextmanager
def redirect_output(path: Path) -> Iterator[Console]:
    """Sends all output but that of the console to the file at path: `with redirect_output(path) as console:`.

    It works on file descriptors, so it also catches C++ libraries, child processes started inside the block (a local
    Ray, vLLM's workers) and Ray's forwarded worker logs, beside print, warnings and logging. `console` writes to the
    original stdout and knows whether that is a terminal. Output is appended to the file. The traceback of an exception
    that leaves the block goes to the file; the caller reports the exception in one line. The console ends with the
    block.
    """
    streams, saved = (sys.stdout, sys.stderr), (os.dup(1), os.dup(2))  # not inherited by children
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with ExitStack() as undo:
        for descriptor in saved:
            undo.callback(os.close, descriptor)
        file = undo.enter_context(open(saved[0], "w", buffering=1, closefd=False, encoding=encoding, errors="replace"))
        with path.open("ab") as log:
            for target, stream in enumerate(streams, start=1):
                stream.flush()
                os.dup2(log.fileno(), target)
        sys.stdout, sys.stderr = _line_buffered(1), _line_buffered(2)
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(handler)
        logging.captureWarnings(True)
        try:
            yield Console(file=file)
        except SystemExit:
            raise
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            logging.captureWarnings(False)
            logging.getLogger().removeHandler(handler)
            for stream in (sys.stdout, sys.stderr, *streams):  # libraries may still hold the earlier streams
                stream.flush()
            sys.stdout, sys.stderr = streams
            for target, descriptor in enumerate(saved, start=1):
                os.dup2(descriptor, target)


def _line_buffered(descriptor: int) -> IO[str]:
    """A text stream on the descriptor itself, so that a handler that keeps it after the block can still write."""
    return open(descriptor, "w", buffering=1, closefd=False, encoding="utf-8", errors="backslashreplace")


class _RunProgress(Progress):
    """The progress bar with the field `numbers` of each task that has it below."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        for task in self.tasks:
            if task.fields.get("numbers"):
                yield Text(task.fields["numbers"], no_wrap=True, overflow="ellipsis")


def make_progress(console: Console, *, enabled: bool = True) -> Progress:
    """A bar over iterations at the bottom of the terminal, and nothing elsewhere. Its tasks need the field `left`."""
    return _RunProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("iterations"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),  # rich has no estimate if an iteration takes 30 s or more
        console=console,
        transient=True,
        redirect_stdout=False,  # rich would print output that belongs in run.log
        redirect_stderr=False,
        disable=not (enabled and console.is_terminal),
    )


def bar_fields(row: Mapping[str, float], *, left_s: float | None) -> dict[str, Any]:
    """Fields of a task of make_progress: numbers of the last row with units, and time left (None: not known yet)."""
    return {
        "numbers": _numbers({name: row[name] for name in BAR_METRICS if name in row}),
        "left": "gone" if left_s is None else f"gone, {duration(left_s)} left",
    }


@contextmanager
def progress_of(console: Console, label: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar of one task, called with (done, total); without a terminal, one line at the first call."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None, visible=False)
        is_new = True

        def show(done: int, total: int) -> None:
            nonlocal is_new
            if is_new:
                print_line(console, f"{label} ...")
                is_new = False
            bar.update(task, completed=done, total=total, visible=True)

        yield show


def print_line(console: Console, text: str) -> None:
    """Prints one line without markup, and without wrapping if the output is not a terminal."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def new_table(name: str, *columns: str) -> Table:
    """A table without borders: a column of names, and right-aligned columns of numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(name, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def iteration_line(row: Mapping[str, float], *, num_iterations: int, left_s: float) -> str:
    """Console line of an iteration: number, rewards and metrics of ITERATION_COLUMNS that the row has, time left."""
    width = len(str(num_iterations))
    number = f"iteration {int(row['iteration']) + 1:>{width}}/{num_iterations}"
    return "  ".join(part for part in (number, _numbers(row), f"left {duration(left_s)}") if part)


def _numbers(row: Mapping[str, float]) -> str:
    rewards = tuple((metric, f"{name} {{:.2f}}") for name, metric in reward_metrics(row).items())
    columns = (*ITERATION_COLUMNS[:1], *rewards, *ITERATION_COLUMNS[1:])
    return "  ".join(text.format(row[name]) for name, text in columns if name in row)


def eval_lines(iteration: int, metrics: Mapping[str, float]) -> list[str]:
    """Console lines of an evaluation, one a set: lengths in tokens, the rest in percent, intervals in brackets."""
    sets: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        name, _, metric = key.removeprefix("eval/").rpartition("/")
        sets.setdefault(name, {})[metric] = value
    return [
        "  ".join([f"evaluation after {iteration} iterations", name, *_eval_parts(numbers)])
        for name, numbers in sets.items()
    ]


def _eval_parts(numbers: Mapping[str, float]) -> Iterator[str]:
    for metric, value in numbers.items():
        if metric.endswith(("_low", "_high")):  # printed with the metric that they bound
            continue
        text = f"{value:.1f} tokens" if metric == "length" else f"{value:.1%}"
        if f"{metric}_low" in numbers:
            text += f" [{numbers[f'{metric}_low']:.1%}, {numbers[f'{metric}_high']:.1%}]"
        yield f"{metric} {text}"


def duration(seconds: float) -> str:
    """A duration as text: 12 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
