"""The terminal of a command: lines and progress bars for a person, and no other output.

`redirect_output` reserves the terminal for the lines printed here: all other output of this process, its libraries and
its children on file descriptors 1 and 2 goes to a log.
"""

import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from orchestration.terminal.exit_status import flush_or_drop
from orchestration.terminal.leaving import use_stderr


@contextmanager
def redirect_output(path: Path) -> Iterator[Console]:
    """Sends all output but that of the console to the file at path: `with redirect_output(path) as console:`.

    It works on file descriptors, so it also catches C++ libraries, child processes started inside the block (a local
    Ray, vLLM's workers) and Ray's forwarded worker logs, beside print, warnings and logging. `console` writes to the
    original stdout and knows whether that is a terminal. Output is appended to the file. The traceback of an exception
    that leaves the block goes to the file; the caller reports the exception in one line. The console ends with the
    block. A full disk or a terminal that is gone loses lines here, and raises nothing.
    """
    streams, saved = (sys.stdout, sys.stderr), (os.dup(1), os.dup(2))  # not inherited by children
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with ExitStack() as undo:
        for descriptor in saved:
            undo.callback(os.close, descriptor)
        file = _lasting(saved[0], encoding=encoding, errors="replace")
        with path.open("ab") as log:
            for target, stream in enumerate(streams, start=1):
                stream.flush()
                os.dup2(log.fileno(), target)
        use_stderr(saved[1])
        sys.stdout, sys.stderr = (_lasting(target, encoding="utf-8", errors="backslashreplace") for target in (1, 2))
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
                flush_or_drop(stream)
            sys.stdout, sys.stderr = streams
            for target, descriptor in enumerate(saved, start=1):
                os.dup2(descriptor, target)
            use_stderr(2)


class _LastingFile(io.FileIO):
    """A descriptor that is written to as long as it takes something: what it refuses is lost."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _lasting(descriptor: int, *, encoding: str, errors: str) -> IO[str]:
    """A text stream on the descriptor itself, so that a handler that keeps it after a block can still write."""
    raw = io.BufferedWriter(_LastingFile(descriptor, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding=encoding, errors=errors, line_buffering=True)


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


def duration(seconds: float) -> str:
    """A duration as text: 12 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
