"""The command: `python orchestration/run.py key=value ...` checks every setting, then trains one run or a sweep.

In: the arguments. Out: an exit status (see --help). Heavy libraries are imported after all checks of settings."""

import os
import sys

if not __package__:  # run as a script: sys.path[0] is orchestration/, where our modules could hide others of their name
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from orchestration.terminal.leaving import leave_at_once

if __name__ == "__main__":
    leave_at_once()  # the imports below take most of a second

from configs.command import help_text, read_command, settings_of_runs
from orchestration.dry_run import print_dry_runs
from orchestration.startup.preflight import notices_of, preflight, refuse
from orchestration.terminal.exit_status import command, leave, print_answer


@command
def main(arguments: list[str]) -> int:
    configs = read_command(arguments)
    if configs is None:
        print_answer(help_text())
        return 0
    checks = preflight(configs)
    print_dry_runs(configs, checks)
    refuse(checks)
    for config, settings, of_run in zip(configs, settings_of_runs(arguments), checks, strict=True):
        if not config.dry_run:
            from orchestration.session import train

            train(config, notices=notices_of(of_run), settings=settings)
    return 0


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
