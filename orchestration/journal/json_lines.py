"""Files with one JSON object on each line: appends rows durably, reads them, and moves unwanted ones aside.

In and out: mappings of plain JSON values. A crash can cut only the last line; such a line is not a row, and the next
keep_rows moves it aside. This module does not know what the rows mean.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.files import naming, replacing

Row = dict[str, Any]
Keep = Callable[[Row], bool]
DROPPED_LIMIT_BYTES = 64 * 2**20  # size of a file of dropped rows beyond which the next ones replace them


def append_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add rows; they are on the disk when this returns.

    Raises ValueError for nan or inf, which JSON does not have, before writing.
    """
    _append(path, [text_of(rows)])


def text_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """The lines of rows. Raises ValueError for nan or inf, which JSON does not have."""
    return "".join(json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n" for row in rows)


def read_rows(path: Path) -> list[Row]:
    """All rows of a file, none if it does not exist.

    Raises ValueError naming the line that is not a row, a cut last line aside.
    """
    return list(iterate_rows(path))


def iterate_rows(path: Path) -> Iterator[Row]:
    """The same, one at a time: for a file of any size."""
    return (row for row in _rows(path) if row is not None)


def keep_rows(path: Path, keep: Keep) -> int:
    """Move rows that `keep` turns down, and a cut last line, to <name>.dropped.jsonl; returns how many.

    Kept lines do not change.
    """
    is_kept = _judge(path, keep)
    if not all(is_kept):
        aside = path.with_suffix(".dropped.jsonl")
        if aside.exists() and aside.stat().st_size > DROPPED_LIMIT_BYTES:
            aside.unlink()
        dropped = (text for text, kept in zip(_texts(path), is_kept, strict=True) if not kept)
        _append(aside, (text.removesuffix("\n") + "\n" for text in dropped))
    return _rewrite(path, is_kept)


def discard_rows(path: Path, keep: Keep) -> int:
    """Delete rows that `keep` turns down, and a cut last line; returns how many."""
    return _rewrite(path, _judge(path, keep))


def _judge(path: Path, keep: Keep) -> list[bool]:
    return [row is not None and keep(row) for row in _rows(path)]


def _rewrite(path: Path, is_kept: Sequence[bool]) -> int:
    """Replaces the file by its kept lines, if there are others; returns the number of these."""
    if not all(is_kept):
        with replacing(path) as file:
            file.writelines(text.encode() for text, kept in zip(_texts(path), is_kept, strict=True) if kept)
    return is_kept.count(False)


def _append(path: Path, texts: Iterable[str]) -> None:
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.writelines(texts)
        file.flush()
        os.fsync(file.fileno())


def _texts(path: Path) -> Iterator[str]:
    """Each line with its end; none where there is no file."""
    if path.exists():
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            yield from file


def _rows(path: Path) -> Iterator[Row | None]:
    """The row of each line; None for a last line without end, which a crash has cut."""
    for number, text in enumerate(_texts(path), start=1):
        if not text.endswith("\n"):
            yield None
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: is not JSON ({error}); repair or remove the line") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, line {number}: is not a JSON object; repair or remove the line")
        yield {sys.intern(name): value for name, value in row.items()}  # rows share their names in memory
