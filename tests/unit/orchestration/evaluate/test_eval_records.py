"""Rows on disk: what an interrupted evaluation keeps, and with which settings it refuses to continue."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestration.evaluate.records import EvalFolder, EvalRecordError, problems_digest, read_samples
from orchestration.journal.eval_rows import EvalSample
from rollout.tasks import Problem

SETTINGS: dict[str, Any] = {"model.path": "m", "eval.temperature": 0.7, "eval.samples": 2}
PROBLEMS = [Problem(text=f"{n}+1=", reference_answer=str(n + 1), source="sums") for n in range(4)]


def samples_of(problem: int, *, num_samples: int = 2) -> list[EvalSample]:
    return [
        EvalSample(
            set="sums",
            problem=problem,
            sample=sample,
            prompt=PROBLEMS[problem].text,
            reference=PROBLEMS[problem].reference_answer,
            completion="é\n<answer>",
            length=3,
            finished=True,
            format=0.25,
            answer=1.0,
        )
        for sample in range(num_samples)
    ]


def begun(folder: Path, *problems: int) -> EvalFolder:
    records = EvalFolder(folder, SETTINGS)
    assert records.begin("sums", PROBLEMS, num_samples=2) == []
    for problem in problems:
        records.append("sums", samples_of(problem))
    return records


def test_rows_have_the_keys_that_readers_rely_on(tmp_path: Path) -> None:
    begun(tmp_path, 3)
    row = json.loads((tmp_path / "sums.jsonl").read_text().splitlines()[1])
    assert list(row) == (
        ["set", "problem", "sample", "prompt", "reference", "completion", "length", "finished", "format", "answer"]
    )
    assert (row["problem"], row["sample"], row["completion"]) == (3, 1, "é\n<answer>")


def test_a_stopped_evaluation_keeps_whole_problems_only(tmp_path: Path) -> None:
    begun(tmp_path, 2, 0, 1)
    path = tmp_path / "sums.jsonl"
    path.write_text(path.read_text()[:-20])  # the machine stopped within the last row
    kept = EvalFolder(tmp_path, SETTINGS).begin("sums", PROBLEMS, num_samples=2)
    assert [(sample.problem, sample.sample) for sample in kept] == [(0, 0), (0, 1), (2, 0), (2, 1)]
    assert read_samples(path) == kept
    assert path.read_text().endswith("}\n"), "what is appended next begins a line of its own"


def test_finished_rows_are_in_order_whatever_order_they_came_in(tmp_path: Path) -> None:
    interrupted = begun(tmp_path / "a", 2, 0)
    interrupted = EvalFolder(tmp_path / "a", SETTINGS)
    samples = interrupted.begin("sums", PROBLEMS, num_samples=2)
    for problem in (3, 1):
        interrupted.append("sums", samples_of(problem))
        samples += samples_of(problem)
    interrupted.finish("sums", samples, {"eval/sums/pass@1": 1.0})
    at_once = begun(tmp_path / "b", 0, 1, 2, 3)
    at_once.finish("sums", read_samples(tmp_path / "b" / "sums.jsonl"), {"eval/sums/pass@1": 1.0})
    for name in ("sums.jsonl", "summary.json"):
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary["metrics"] == {"eval/sums/pass@1": 1.0}
    assert summary["settings"] == SETTINGS


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    begun(tmp_path, 0)
    with pytest.raises(EvalRecordError, match=r"with eval\.temperature=0\.7, now eval\.temperature=1\.0; leave"):
        EvalFolder(tmp_path, {**SETTINGS, "eval.temperature": 1.0})
    with pytest.raises(EvalRecordError, match=r"task=absent, now task=math"):
        EvalFolder(tmp_path, {**SETTINGS, "task": "math"})


def test_an_evaluation_without_rows_binds_nobody(tmp_path: Path) -> None:
    begun(tmp_path)
    EvalFolder(tmp_path, {**SETTINGS, "eval.temperature": 1.0}).begin("sums", PROBLEMS[:2], num_samples=2)
    assert json.loads((tmp_path / "summary.json").read_text())["settings"]["eval.temperature"] == 1.0


def test_other_problems_under_the_same_name_are_refused(tmp_path: Path) -> None:
    begun(tmp_path, 0)
    with pytest.raises(EvalRecordError, match="rows of sums are of other problems"):
        EvalFolder(tmp_path, SETTINGS).begin("sums", PROBLEMS[::-1], num_samples=2)
    assert problems_digest(PROBLEMS) != problems_digest(PROBLEMS[:3])


def test_another_set_may_join(tmp_path: Path) -> None:
    begun(tmp_path, 0).finish("sums", samples_of(0), {"eval/sums/pass@1": 1.0})
    records = EvalFolder(tmp_path, SETTINGS)
    records.begin("more", PROBLEMS[:1], num_samples=2)
    records.finish("more", samples_of(0), {"eval/more/pass@1": 0.5})
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["metrics"] == {"eval/sums/pass@1": 1.0, "eval/more/pass@1": 0.5}
    assert set(summary["problems"]) == {"sums", "more"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("sums.jsonl", '{"set": "sums"}\n', "no summary.json"),
        ("summary.json", "{", "summary.json: is not readable"),
        ("summary.json", "{}", "is not the summary of an evaluation"),
    ],
)
def test_folders_of_something_else_are_left_alone(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(EvalRecordError, match=message):
        EvalFolder(tmp_path, SETTINGS)
    assert (tmp_path / name).read_text() == content
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("line", ["not json", '{"set": "sums"}'])
def test_a_damaged_row_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "sums.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(EvalRecordError, match=r"sums\.jsonl, line 1: is not"):
        read_samples(path)
