"""The command: `python orchestration/run.py key=value ...` checks every setting, then trains one run or a sweep.

In: the arguments. Out: an exit status, as --help lists them. Heavy libraries are imported after all checks of settings.
"""

import sys
from pathlib import Path

if not __package__:  # run as a script: sys.path[0] is orchestration/, where our modules could hide others of their name
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from configs.command import help_text, read_command
from orchestration.dry_run import print_dry_runs
from orchestration.startup.preflight import notices_of, preflight, refuse
from orchestration.terminal.exit_status import exit_status, print_answer


def main(arguments: list[str]) -> int:
    try:
        configs = read_command(arguments)
        if configs is None:
            print_answer(help_text())
            return 0
        checks = preflight(configs)
        print_dry_runs(configs, checks)
        refuse(checks)
        for config, of_run in zip(configs, checks, strict=True):
            if not config.dry_run:
                from orchestration.session import train

                train(config, notices=notices_of(of_run))
    except (ValueError, RuntimeError, KeyboardInterrupt) as error:
        return exit_status(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
