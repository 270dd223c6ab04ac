"""A mistake that a person makes, and every line that the command answers it with."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestration import run
from orchestration.evaluate import __main__ as evaluate
from orchestration.study import __main__ as study
from orchestration.terminal.exit_status import MISCONFIGURED

ANYTHING = "…"  # stands in a line for text that differs between machines
HERE = "/home/you/project"  # stands for the folder in which the command is given
COMMANDS = {
    "python orchestration/run.py": run.main,
    "python -m orchestration.evaluate": evaluate.main,
    "python -m orchestration.study": study.main,
}
RUN, EVALUATE, STUDY = COMMANDS

Prepare = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What is so when the command is given, beside its settings."""

    words: str  # for a reader
    prepare: Prepare  # makes it so, in the current folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Mistake:
    """One command that is refused."""

    settings: tuple[str, ...]
    lines: tuple[str, ...]  # all that it prints; HERE for the current folder, ANYTHING where machines differ
    command: str = RUN
    given: Given | None = None

    @property
    def typed(self) -> str:
        """The command as a person types it."""
        quoted = (f"'{setting}'" if re.search(r"[\s'\"$|\[\]{}~]", setting) else setting for setting in self.settings)
        return " ".join((self.command, *quoted))

    def answer(self, capsys: pytest.CaptureFixture[str], here: Path) -> tuple[str, ...]:
        """What the command prints; fails where it is not refused."""
        capsys.readouterr()
        assert COMMANDS[self.command](list(self.settings)) == MISCONFIGURED, self.typed
        return tuple(capsys.readouterr().err.replace(str(here), HERE).splitlines())


def mistake(settings: str | tuple[str, ...], *lines: str, command: str = RUN, given: Given | None = None) -> Mistake:
    """One setting, or several in a tuple, and the lines."""
    return Mistake(
        settings=(settings,) if isinstance(settings, str) else settings, lines=lines, command=command, given=given
    )


def is_told(line: str, printed: str) -> bool:
    """Whether the printed line is the expected one."""
    return re.fullmatch(".*".join(map(re.escape, line.split(ANYTHING))), printed) is not None
