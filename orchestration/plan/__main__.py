"""The command: `python -m orchestration.plan [settings]` predicts time, memory and scaling of a run.

In: the arguments. Out: an exit status (told by --help). No heavy library is imported before all settings are accepted,
and none at all where nothing is measured.
"""

import sys

from orchestration.plan.command import USAGE, read_plan_command
from orchestration.terminal.exit_status import exit_status, print_answer


def main(arguments: list[str]) -> int:
    try:
        request = read_plan_command(arguments)
        if request is None:
            print_answer(USAGE)
        else:
            from orchestration.plan.session import make_plan

            make_plan(request)
    except (ValueError, RuntimeError, KeyboardInterrupt) as error:
        return exit_status(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
