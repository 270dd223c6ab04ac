"""The command: `python -m orchestration.evaluate model=... sets=[...]` evaluates a model, or compares two evaluations.

In: the arguments. Out: an exit status (see --help). No heavy library is imported before all settings are accepted.
"""

import sys
from pathlib import Path

from orchestration.evaluate.command import EvaluateRequest, evaluate_help_text, read_evaluate_command
from orchestration.terminal.exit_status import exit_status, print_answer


def main(arguments: list[str]) -> int:
    try:
        command = read_evaluate_command(arguments)
        if command is None:
            print_answer(evaluate_help_text())
        elif isinstance(command, EvaluateRequest):
            from orchestration.evaluate.session import evaluate_model

            evaluate_model(command)
        else:
            from orchestration.evaluate.compare import print_comparison

            print_comparison(*map(Path, command))
    except (ValueError, RuntimeError, KeyboardInterrupt) as error:
        return exit_status(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
