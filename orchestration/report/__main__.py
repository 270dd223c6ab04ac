"""`python -m orchestration.report FOLDER ...`: writes the report of runs and of studies.

In: folders. Out: report.html in each, for a study also Markdown, CSV and a picture; an exit status. Starts nothing.
"""

import sys

from orchestration.terminal.leaving import leave_at_once

if __name__ == "__main__":
    leave_at_once()  # the imports below take most of a second

from collections.abc import Sequence
from pathlib import Path

from configs.command import wants_help
from orchestration.journal.run_record import RecordError
from orchestration.startup.folders import refusing_unwritable
from orchestration.terminal.exit_status import command, leave, print_answer
from orchestration.terminal.stopping import Stopping

USAGE = """\
softgate report: writes report.html for finished and for interrupted runs, and for studies.

usage: python -m orchestration.report FOLDER [FOLDER ...]

FOLDER is a run's folder (curves, final numbers, settings, sample completions) or a study's (docs/study.md).

Exit status: 0 done, 1 a folder holds nothing to report, 2 it cannot be written; 130, 143, 129 ended by Ctrl-C, SIGTERM,
SIGHUP.\
"""


@command
def main(arguments: Sequence[str]) -> int:
    if wants_help(arguments):
        print_answer(USAGE)
        return 0
    if not arguments:
        raise RecordError("no folder was named; see --help")
    for folder in map(Path, arguments):
        if not folder.is_dir():
            raise RecordError(f"{folder}: is not a folder; name that of a run or of a study")
        # Imported here, because matplotlib takes a second that --help does not need.
        from orchestration.report.run_report import write_run_report
        from orchestration.study.report import is_study, write_study_report

        with Stopping(), refusing_unwritable(str(folder)):
            paths = write_study_report(folder) if is_study(folder) else [write_run_report(folder)]
        print_answer("\n".join(map(str, paths)))
    return 0


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
