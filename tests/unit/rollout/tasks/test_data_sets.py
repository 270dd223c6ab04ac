"""Reading of data sets: columns, extraction, limits, and the one line for each unusable set."""

import json
import os
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from data_files import COPIED_FILES, OWN, data_config, needs_copies

from configs.tasks import EvalSetConfig, TrainSetConfig
from rollout.tasks.data_sets import OFFLINE, DataSetError, load_set, prepare_hub

KEY = "task.train.mine"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes rows in the format of the suffix."""
    if path.suffix == ".parquet":
        from datasets import Dataset

        Dataset.from_list(rows).to_parquet(str(path))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def section(path: Path | str, **settings: Any) -> TrainSetConfig:
    return TrainSetConfig.model_validate({"path": str(path), **settings})


def refusal(path: Path | str, **settings: Any) -> str:
    with pytest.raises(DataSetError) as caught:
        load_set("mine", section(path, **settings), key=KEY)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet"])
def test_every_form_of_file(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [{"q": " 1+1? ", "a": 2, "other": None}, {"q": "2+2?", "a": 4, "other": "x"}])
    loaded = load_set("mine", section(path, question_column="q", answer_column="a"), key=KEY)
    assert [(p.text, p.reference_answer, p.source) for p in loaded.problems] == [
        ("1+1?", "2", "mine"),
        ("2+2?", "4", "mine"),
    ]
    assert loaded.num_without_answer == 0


def test_rows_without_question_or_answer_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        {"question": "a", "answer": "so\n#### 1"},
        {"question": "b", "answer": "no idea"},
        {"question": "c", "answer": None},
        {"question": "  ", "answer": "#### 4"},
        {"question": "e", "answer": "#### 5"},
    ]
    loaded = load_set("mine", section(write(tmp_path / "a.jsonl", rows), extraction="hashes"), key=KEY)
    assert [problem.reference_answer for problem in loaded.problems] == ["1", "5"]
    assert loaded.num_without_answer == 3


def test_limit_takes_the_first_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": str(number), "answer": "1"} for number in range(5)])
    assert [p.text for p in load_set("mine", section(path, limit=2), key=KEY).problems] == ["0", "1"]
    assert len(load_set("mine", section(path, limit=9), key=KEY).problems) == 5


@pytest.mark.parametrize(
    ("columns", "answers"),
    [({"answer": "7"}, ["7"]), ({"solution": r"so $\boxed{7}$"}, ["7"]), ({"solution": "long", "answer": "7"}, ["7"])],
)
def test_the_first_answer_column_that_there_is(tmp_path: Path, columns: dict[str, str], answers: list[str]) -> None:
    path = write(tmp_path / "aime.jsonl", [{"problem": "p", **columns}])
    aime = data_config(COPIED_FILES).task.eval["aime24"].model_copy(update={"path": str(path)})
    assert [p.reference_answer for p in load_set("aime24", aime, key="task.eval.aime24").problems] == answers


def test_missing_columns_are_told_with_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "p", "solution": "s"}])
    assert refusal(path) == (
        f"task.train.mine.question_column=question: {path} has no such column, only prompt, solution; name one of these"
    )
    assert refusal(path, question_column="prompt", answer_column="a|b") == (
        f"task.train.mine.answer_column=a|b: {path} has no such column, only prompt, solution; name one of these"
    )


def test_an_extraction_that_fits_no_row_is_told_with_what_was_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": "p", "answer": "the answer is 7"}])
    line = refusal(path, extraction="boxed")
    assert line.startswith("task.train.mine.extraction=boxed: no row of column answer has a balanced")
    assert "'the answer is 7'" in line


def test_a_column_that_holds_no_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"question": [{"role": "user"}], "answer": "7"}])
    line = refusal(path)
    assert line.startswith("task.train.mine.question_column=question: row 0 holds [{'role': 'user'}]; must be text")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jsonl", b"", "is an empty file"),
        ("empty.json", b"[]", "has no rows|cannot be read"),
        ("broken.jsonl", b'{"question": 1}\nnot json\n', "cannot be read"),
        ("broken.parquet", b"not parquet", "cannot be read"),
        ("latin.jsonl", b'{"question": "\xe4", "answer": "1"}\n', "cannot be read"),
    ],
)
def test_unreadable_files(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    line = refusal(path)
    assert line.startswith(f"task.train.mine.path={path}: ")
    assert re.search(reason, line)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    line = refusal(tmp_path / "nowhere.jsonl")
    assert line.startswith(f"task.train.mine.path={tmp_path}/nowhere.jsonl: no such file")
    (tmp_path / "folder.jsonl").mkdir()
    assert "cannot be read (Is a directory)" in refusal(tmp_path / "folder.jsonl")


def test_a_hub_name_without_a_network_names_the_remedy() -> None:
    line = refusal("openai/no-such-set", subset="main")
    assert line.startswith("task.train.mine.path=openai/no-such-set: cannot be read (")
    assert "subset main, split train" in line
    assert "task.train.mine.path=<file>.jsonl" in line
    assert "task.train.mine=null" in line


@pytest.mark.parametrize("name", ["gsm8k", "deepmath", "math500", "aime"])
def test_own_rows_have_the_columns_of_the_public_sets(name: str) -> None:
    task = data_config(COPIED_FILES).task
    sections = {
        "gsm8k": task.train["gsm8k"],
        "deepmath": task.train["deepmath"],
        "math500": task.eval["math500"],
        "aime": task.eval["aime24"],
    }
    own = sections[name].model_copy(update={"path": str(OWN / f"{name}_style.jsonl")})
    loaded = load_set(name, own, key=KEY)
    assert len(loaded.problems) == {"gsm8k": 24, "deepmath": 12, "math500": 12, "aime": 6}[name]
    assert loaded.num_without_answer == 0


@needs_copies
@pytest.mark.parametrize(
    ("key", "size", "first"),
    [
        ("train.gsm8k", 7473, "72"),
        ("train.deepmath", 32, r"\dfrac{53}{3}"),
        ("eval.gsm8k", 1319, "18"),
        ("eval.math500", 500, r"\left( 3, \frac{\pi}{2} \right)"),
        ("eval.aime24", 30, "204"),
        ("eval.aime25", 30, "70"),
    ],
)
def test_copies_of_the_public_sets(key: str, size: int, first: str) -> None:
    part, _, name = key.partition(".")
    config: EvalSetConfig = getattr(data_config(COPIED_FILES).task, part)[name]
    loaded = load_set(name, config, key=f"task.{key}")
    assert (len(loaded.problems), loaded.num_without_answer) == (size, 0)
    assert loaded.problems[0].reference_answer == first
    assert not any("####" in p.reference_answer or "boxed" in p.reference_answer for p in loaded.problems)


class Refusing(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_error(403)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_hub_that_does_not_answer_is_not_asked_again(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port}")
    monkeypatch.setenv(OFFLINE, "")  # so that what prepare_hub sets is undone
    prepare_hub()
    assert os.environ[OFFLINE] == "1"


def test_a_hub_that_answers_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv(OFFLINE, "")
        prepare_hub()
    assert os.environ[OFFLINE] == ""
