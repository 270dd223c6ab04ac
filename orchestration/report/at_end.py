"""The report that a run writes when it ends, well or not."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from orchestration.journal.run_files import METRICS_FILE
from orchestration.journal.run_record import RecordError
from orchestration.terminal.console import print_line


@contextmanager
def report_at_end(folder: Path, console: Console) -> Iterator[None]:
    """Writes the report of the run inside the `with` block when it ends, well or not, if it has trained at all."""
    try:
        yield
    finally:
        if (folder / METRICS_FILE).exists():
            from orchestration.report.run_report import write_run_report  # matplotlib takes a second

            try:
                print_line(console, f"report: {write_run_report(folder)}")
            except RecordError as error:  # must not hide how the run itself ended
                print_line(console, f"no report: {error}")
