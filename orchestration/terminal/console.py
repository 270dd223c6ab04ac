"""The terminal of a command: lines and progress bars for a person, and no other output.

`redirect_output` reserves the terminal for the lines printed here: all other output of this process, its libraries and
its children on file descriptors 1 and 2 goes to a log.
"""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

from rich.console import Console
from rich.progress import Progress


def redirect_output(path: Path) -> AbstractContextManager[Console]:
    """Sends all output but that of the console to the file at path: `with redirect_output(path) as console:`.

    It works on file descriptors, so it also catches C++ libraries, child processes started inside the block (a local
    Ray, vLLM's workers) and Ray's forwarded worker logs, beside print, warnings and logging. `console` writes to the
    original stdout and knows whether that is a terminal. Output is appended to the file. The traceback of an exception
    that leaves the block goes to the file; the caller reports the exception in one line. The console ends with the
    block.
    """
    return _OutputRedirect(path)


class _OutputRedirect(AbstractContextManager[Console]):
    """The context manager of redirect_output."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Console:
        log = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._streams = (sys.stdout, sys.stderr)
        for stream in self._streams:
            stream.flush()
        self._saved = (os.dup(1), os.dup(2))  # not inherited, so children cannot write to the terminal
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        self._file: IO[str] = open(self._saved[0], "w", buffering=1, closefd=False, encoding=encoding, errors="replace")
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        sys.stdout, sys.stderr = _line_buffered(1), _line_buffered(2)
        self._handler = logging.StreamHandler(sys.stderr)
        self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger().addHandler(self._handler)
        logging.captureWarnings(True)
        return Console(file=self._file)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, SystemExit):
            traceback.print_exception(kind, error, trace)
        logging.captureWarnings(False)
        logging.getLogger().removeHandler(self._handler)
        for stream in (sys.stdout, sys.stderr, *self._streams):  # libraries may still hold the earlier streams
            stream.flush()
        self._file.close()
        sys.stdout, sys.stderr = self._streams
        for saved, target in zip(self._saved, (1, 2), strict=True):
            os.dup2(saved, target)
            os.close(saved)


def _line_buffered(descriptor: int) -> IO[str]:
    """A text stream on the descriptor itself, so that a handler that keeps it after the block can still write."""
    return open(descriptor, "w", buffering=1, closefd=False, encoding="utf-8", errors="backslashreplace")


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


def duration(seconds: float) -> str:
    """A duration as text: 12 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
