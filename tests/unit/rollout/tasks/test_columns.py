"""Columns of data files from their beginning, compared with those of the library that reads them whole."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_dataset

from rollout.tasks import columns
from rollout.tasks.columns import columns_of

ROWS: list[dict[str, Any]] = [{"q": "1+1", "a": 2}, {"q": "2+2", "a": 4, "hint": None}]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(str(path))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_columns_are_those_of_the_library(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROWS)
    kind = "parquet" if name.endswith("parquet") else "json"
    loaded = load_dataset(kind, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(columns_of(path) or ()) == sorted(loaded.column_names)


def test_only_the_beginning_of_rows_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    path.write_text(path.read_text() + "\nno row")
    assert columns_of(path) is None
    monkeypatch.setattr(columns, "BEGINNING_BYTES", 1)
    assert columns_of(path) == ("q", "a")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b""),
        ("a.jsonl", b"not json"),
        ("a.jsonl", b"\xff\xfe"),
        ("a.jsonl", b"1\n2\n"),
        ("a.json", b"[1, 2]"),
        ("a.json", b"[]"),
        ("a.parquet", b"PAR1"),
    ],
)
def test_what_is_no_table_is_left_to_the_library(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert columns_of(tmp_path / name) is None
