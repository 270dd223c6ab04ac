"""docs/errors.md, made from the mistakes that the tests assert.

`PYTHONPATH=.:tests:tests/unit python -m mistakes.page` writes it.
"""

from pathlib import Path

from mistakes.of_data import OF_DATA
from mistakes.of_machine import OF_MACHINE
from mistakes.of_settings import OF_SETTINGS
from mistakes.rows import ANYTHING, HERE, Mistake

PAGE = Path(__file__).resolve().parents[3] / "docs" / "errors.md"
MISTAKES: dict[str, tuple[Mistake, ...]] = OF_SETTINGS | OF_DATA | OF_MACHINE
HEAD = f"""\
# Mistakes, and what each command prints

A command looks at everything before it starts any process: the settings, your own code, data files, the model's files,
folders and their room, the cluster, memory, ports, versions. It prints one line for each mistake, all at once, and ends
with exit status 2. `dry_run=true` looks at the same things and prints what it found; where there is a mistake it ends
with status 2 too.

These are commands that the tests give ([tests/unit/mistakes](../tests/unit/mistakes)), with every line that they
print. A line that begins with `#` says what is so when the command is given. `{ANYTHING}` stands for text that differs
between machines, `{HERE}` for the folder in which the command is given.
"""


def page() -> str:
    """The whole text."""
    sections = [f"## {kind}\n```\n{_block(mistakes)}\n```\n" for kind, mistakes in MISTAKES.items()]
    return "\n".join([HEAD, *sections])


def _block(mistakes: tuple[Mistake, ...]) -> str:
    entries = (
        "\n".join([*([f"# {each.given.words}"] if each.given else []), f"$ {each.typed}", *each.lines])
        for each in mistakes
    )
    return "\n\n".join(entries)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
