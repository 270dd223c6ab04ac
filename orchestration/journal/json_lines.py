"""Files with one JSON object on each line: appends rows durably, reads them, and moves unwanted ones aside.

In and out: mappings of plain JSON values. A crash can cut only the last line; such a line is not a row, and the next
keep_rows moves it aside. This module does not know what the rows mean.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.files import naming, write_atomically

Row = dict[str, Any]


def append_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows; they are on the disk when this returns.

    Raises ValueError for nan or inf, which JSON does not have, before writing.
    """
    _append(path, text_of(rows))


def text_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """The lines of rows. Raises ValueError for nan or inf, which JSON does not have."""
    return "".join(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n" for row in rows)


def read_rows(path: Path) -> list[Row]:
    """All rows of a file, none if it does not exist.

    Raises ValueError naming the line that is not a row, a cut last line aside.
    """
    return [row for _, row in _lines(path) if row is not None]


def keep_rows(path: Path, keep: Callable[[Row], bool]) -> int:
    """Move rows that `keep` turns down, and a cut last line, to <name>.dropped.jsonl; returns how many.

    Kept lines do not change.
    """
    lines = _lines(path)
    kept = "".join(text for text, row in lines if row is not None and keep(row))
    dropped = [text for text, row in lines if row is None or not keep(row)]
    if dropped:
        _append(path.with_suffix(".dropped.jsonl"), "".join(text.removesuffix("\n") + "\n" for text in dropped))
        write_atomically(path, kept)
    return len(dropped)


def _append(path: Path, text: str) -> None:
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _lines(path: Path) -> list[tuple[str, Row | None]]:
    """Each line with its end, and its row; None for a last line without end, which a crash has cut."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        texts = list(file)
    lines: list[tuple[str, Row | None]] = []
    for number, text in enumerate(texts, start=1):
        if not text.endswith("\n"):
            lines.append((text, None))
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: is not JSON ({error}); repair or remove the line") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: is not a JSON object; repair or remove the line")
        lines.append((text, row))
    return lines
