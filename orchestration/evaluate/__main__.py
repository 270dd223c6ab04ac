"""The command: `python -m orchestration.evaluate model=... sets=[...]` evaluates a model, or compares two evaluations.

In: the arguments. Out: an exit status (see --help). No heavy library is imported before all settings are accepted.
"""

import sys

from orchestration.terminal.leaving import leave_at_once

if __name__ == "__main__":
    leave_at_once()  # the imports below take most of a second

from pathlib import Path

from orchestration.evaluate.command import EvaluateRequest, evaluate_help_text, read_evaluate_command
from orchestration.terminal.exit_status import command, leave, print_answer
from orchestration.terminal.stopping import Stopping


@command
def main(arguments: list[str]) -> int:
    asked = read_evaluate_command(arguments)
    if asked is None:
        print_answer(evaluate_help_text())
    elif isinstance(asked, EvaluateRequest):
        from orchestration.evaluate.session import evaluate_model

        with Stopping():
            evaluate_model(asked)
    else:
        from orchestration.evaluate.compare import print_comparison

        print_comparison(*map(Path, asked))
    return 0


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
