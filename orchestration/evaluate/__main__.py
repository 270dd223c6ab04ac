"""The command: `python -m orchestration.evaluate model=... sets=[...]` evaluates a model, or compares two evaluations.

In: the arguments. Out: an exit status (see --help). No heavy library is imported before all settings are accepted.
"""

import sys
from pathlib import Path

from orchestration.evaluate.command import evaluate_help_text, read_evaluate_command
from orchestration.terminal.exit_status import exit_status, print_answer


def main(arguments: list[str]) -> int:
    try:
        command = read_evaluate_command(arguments)
        if command.wants_help:
            print_answer(evaluate_help_text())
        elif command.compare is not None:
            from orchestration.evaluate.compare import compare_folders
            from orchestration.evaluate.tables import print_comparison

            first, second = (Path(folder) for folder in command.compare)
            print_comparison(compare_folders(first, second), names=(str(first), str(second)))
        elif command.request is not None:
            from orchestration.evaluate.session import evaluate_model

            evaluate_model(command.request)
    except (ValueError, RuntimeError, KeyboardInterrupt) as error:
        return exit_status(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
