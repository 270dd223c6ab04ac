"""The blocks of a report, and the HTML page or the Markdown made of them.

In: headings, paragraphs, tables, figures, texts. Out: one HTML text that loads nothing, runs no script and reads well
on a phone, in light and dark mode; or Markdown with links to pictures in files. Every text is escaped here and only
here, because completions are not trusted.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class _Text:
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Heading(_Text):
    level: Literal[1, 2, 3]


class Paragraph(_Text):
    """Running text."""


class Notice(_Text):
    """A warning that a reader must not miss."""


class Verbatim(_Text):
    """Preformatted text, line by line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bullets:
    """A list of short statements."""

    items: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table whose cells are text; the columns in `numeric` are right-aligned."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A picture; `name` is the name of its file where the report has files."""

    name: str
    svg: bytes
    alt: str
    caption: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Pictures side by side where there is room."""

    items: tuple[Figure, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Folded:
    """Blocks that are hidden until a click."""

    title: str
    blocks: "tuple[Block, ...]"


MISSING = "–"  # content of a cell without a value

Block = Heading | Paragraph | Notice | Bullets | Table | Figures | Verbatim | Folded

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5c6370; --line: #d9dce1; --ground: #ffffff;
  --raised: #f6f7f9; --warn: #fff4d6; --warn-line: #c98a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e7ea; --soft: #a2a8b4; --line: #3a3f47; --ground: #16181c;
  --raised: #1f2228; --warn: #3a2f10; --warn-line: #d9a520; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; } h3 { font-size: 1.05rem; }
h1, h2, h3 { line-height: 1.25; overflow-wrap: anywhere; }
p, li { max-width: 50rem; overflow-wrap: anywhere; }
.notice { border-left: 4px solid var(--warn-line); background: var(--warn); padding: .6rem .9rem; }
.scroll { overflow-x: auto; margin: .6rem 0 1.1rem; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td:first-child { white-space: nowrap; } .number { text-align: right; } td.number { white-space: nowrap; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(21rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; } figure img { width: 100%; height: auto; background: #ffffff; border-radius: 6px; }
figcaption { color: var(--soft); font-size: .85rem; }
pre { background: var(--raised); padding: .7rem; border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere;
  font-size: .82rem; }
summary { cursor: pointer; padding: .3rem 0; font-weight: 600; }
"""
MARKUP = re.compile(r"([\\`*_\[\]<>|#])")  # characters that Markdown would read as markup
# Forbids scripts and requests, even to a text that was not escaped by mistake.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def html_page(title: str, blocks: Sequence[Block]) -> str:
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading():
            return f"<h{block.level}>{_text(block.text)}</h{block.level}>"
        case Paragraph():
            return f"<p>{_text(block.text)}</p>"
        case Notice():
            return f'<p class="notice" role="note">{_text(block.text)}</p>'
        case Bullets():
            return "<ul>\n" + "\n".join(f"<li>{_text(item)}</li>" for item in block.items) + "\n</ul>"
        case Table():
            return _table(block)
        case Figures():
            return '<div class="figures">\n' + "\n".join(_figure(item) for item in block.items) + "\n</div>"
        case Verbatim():
            return f"<pre>{_text(block.text)}</pre>"
        case Folded():
            inside = "\n".join(_html(inner) for inner in block.blocks)
            return f"<details>\n<summary>{_text(block.title)}</summary>\n{inside}\n</details>"


def _table(table: Table) -> str:
    def row(cells: tuple[str, ...], tag: str) -> str:
        classes = [' class="number"' if index in table.numeric else "" for index in range(len(cells))]
        tagged = (f"<{tag}{name}>{_text(cell)}</{tag}>" for cell, name in zip(cells, classes, strict=True))
        return f"<tr>{''.join(tagged)}</tr>"

    head = f"<thead>{row(table.columns, 'th')}</thead>"
    body = "\n".join(row(cells, "td") for cells in table.rows)
    return f'<div class="scroll"><table>\n{head}\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _figure(figure: Figure) -> str:
    data = base64.b64encode(figure.svg).decode("ascii")
    image = f'<img alt="{_text(figure.alt)}" src="data:image/svg+xml;base64,{data}">'
    return f"<figure>{image}<figcaption>{_text(figure.caption)}</figcaption></figure>"


def _text(text: str) -> str:
    """The text escaped, with control characters made visible, because a nul byte ends the page in some readers."""
    return escape("".join(char if char in "\n\t" or char >= " " else f"\\x{ord(char):02x}" for char in text))


def markdown_page(blocks: Sequence[Block], *, figure_folder: str) -> str:
    return "\n\n".join(_markdown(block, figure_folder) for block in blocks) + "\n"


def _markdown(block: Block, folder: str) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {_escaped(block.text)}"
        case Paragraph():
            return _escaped(block.text)
        case Notice():
            return f"> **Note:** {_escaped(block.text)}"
        case Bullets():
            return "\n".join(f"- {_escaped(item)}" for item in block.items)
        case Table():
            return _markdown_table(block)
        case Figures():
            return "\n\n".join(f"![{_escaped(item.alt)}]({folder}/{item.name}.svg)" for item in block.items)
        case Verbatim():
            return "\n".join(f"    {line}" for line in block.text.splitlines())
        case Folded():
            inside = "\n\n".join(_markdown(inner, folder) for inner in block.blocks)
            return f"### {_escaped(block.title)}\n\n{inside}"


def _markdown_table(table: Table) -> str:
    rules = ("---:" if index in table.numeric else "---" for index in range(len(table.columns)))
    rows = [table.columns, *table.rows]
    lines = [f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in rows]
    return "\n".join([lines[0], f"| {' | '.join(rules)} |", *lines[1:]])


def _escaped(text: str) -> str:
    return MARKUP.sub(r"\\\1", " ".join(text.split()))
