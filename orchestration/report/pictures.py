"""Curves and report at the end of a run.

In: a run's folder. Out: curves.png and report.html, and their paths on the console. Imports matplotlib, which takes a
second, when there is something to draw.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from configs.schema import RunConfig
from orchestration.journal.curves import draw_curves
from orchestration.journal.run_files import METRICS_FILE
from orchestration.journal.run_record import RecordError
from orchestration.terminal.console import print_line
from orchestration.terminal.stopping import optional


@contextmanager
def pictures_at_end(config: RunConfig, folder: Path, console: Console) -> Iterator[None]:
    """Draws when the run inside the block ends, well or not, if it has trained at all and no signal ended it."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException:
        with optional():
            _draw(config, folder, console)
        raise
    _draw(config, folder, console)


def _draw(config: RunConfig, folder: Path, console: Console) -> None:
    if not (folder / METRICS_FILE).exists():
        return
    from orchestration.report.run_report import write_run_report

    curves = draw_curves(folder, gate_name=config.gate.name, num_iterations=config.num_iterations)
    if curves is not None:
        print_line(console, f"curves: {curves}")
    try:
        print_line(console, f"report: {write_run_report(folder)}")
    except RecordError as error:  # must not hide how the run itself ended
        print_line(console, f"no report: {error}")
