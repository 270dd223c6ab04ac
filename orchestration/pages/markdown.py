"""The blocks of page.py as Markdown, with links to pictures in files.

In: blocks. Out: text. Characters that Markdown would read as markup are escaped.
"""

import re
from collections.abc import Sequence

from orchestration.pages.page import Block, Bullets, Figures, Folded, Heading, Notice, Paragraph, Table, Verbatim

MARKUP = re.compile(r"([\\`*_\[\]<>|#])")


def markdown_page(blocks: Sequence[Block], *, figure_folder: str) -> str:
    return "\n\n".join(_markdown(block, figure_folder) for block in blocks) + "\n"


def _markdown(block: Block, folder: str) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {_text(block.text)}"
        case Paragraph():
            return _text(block.text)
        case Notice():
            return f"> **Note:** {_text(block.text)}"
        case Bullets():
            return "\n".join(f"- {_text(item)}" for item in block.items)
        case Table():
            return _table(block)
        case Figures():
            return "\n\n".join(f"![{_text(item.alt)}]({folder}/{item.name}.svg)" for item in block.items)
        case Verbatim():
            return "\n".join(f"    {line}" for line in block.text.splitlines())
        case Folded():
            inside = "\n\n".join(_markdown(inner, folder) for inner in block.blocks)
            return f"### {_text(block.title)}\n\n{inside}"


def _table(table: Table) -> str:
    rules = ("---:" if index in table.numeric else "---" for index in range(len(table.columns)))
    rows = [table.columns, *table.rows]
    lines = [f"| {' | '.join(_text(cell) for cell in row)} |" for row in rows]
    return "\n".join([lines[0], f"| {' | '.join(rules)} |", *lines[1:]])


def _text(text: str) -> str:
    return MARKUP.sub(r"\\\1", " ".join(text.split()))
