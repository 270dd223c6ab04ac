"""`python -m orchestration.report FOLDER ...`: writes the report of runs and of studies.

In: folders. Out: report.html in each, for a study also Markdown, CSV and a picture; an exit status. Starts nothing.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from orchestration.console import print_line
from orchestration.exit_status import exit_status, print_answer
from reports.run_files import METRICS_FILE
from reports.run_record import RecordError

HELP_FLAGS = ("-h", "--help")
USAGE = """\
softgate report: writes report.html for finished and for interrupted runs, and for studies.

usage: python -m orchestration.report FOLDER [FOLDER ...]

FOLDER is a run's folder (curves, final numbers, settings, sample completions) or a study's (docs/study.md).

Exit status: 0 done, 1 a folder holds nothing to report.\
"""


def main(arguments: Sequence[str]) -> int:
    if any(flag in HELP_FLAGS for flag in arguments):
        print_answer(USAGE)
        return 0
    try:
        if not arguments:
            raise RecordError("no folder was named; see --help")
        for folder in map(Path, arguments):
            for path in _write(folder):
                print_answer(str(path))
    except RuntimeError as error:
        return exit_status(error)
    return 0


@contextmanager
def report_at_end(folder: Path, console: Console) -> Iterator[None]:
    """Around a run: writes its report when the run has ended, well or not, if it has trained at all."""
    try:
        yield
    finally:
        if (folder / METRICS_FILE).exists():
            from reports.run_report import write_run_report  # matplotlib, as below

            try:
                print_line(console, f"report: {write_run_report(folder)}")
            except RecordError as error:  # must not hide how the run itself ended
                print_line(console, f"no report: {error}")


def _write(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise RecordError(f"{folder}: is not a folder; name that of a run or of a study")
    # Not before: matplotlib takes a second that --help need not.
    from reports.run_report import write_run_report
    from reports.study_report import is_study, write_study_report

    return write_study_report(folder) if is_study(folder) else [write_run_report(folder)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
