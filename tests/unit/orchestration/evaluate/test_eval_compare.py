"""Comparison of two folders of rows: the difference, and evaluations that cannot be paired."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from orchestration.evaluate.compare import compare_folders, comparison_table
from orchestration.evaluate.records import EvalFolder, EvalRecordError
from orchestration.evaluate.summary import summarize, summary_table
from orchestration.journal.eval_rows import EvalSample, write_samples
from rollout.tasks import Problem

NUM_PROBLEMS = 40


def problems(*, first: int = 0, number: int = NUM_PROBLEMS) -> list[Problem]:
    return [Problem(text=f"{n}+1=", reference_answer=str(n + 1), source="s") for n in range(first, first + number)]


def samples(right_problems: range, *, num_samples: int = 2, template: str = "{}") -> list[EvalSample]:
    return [
        EvalSample(
            set="sums",
            problem=index,
            sample=sample,
            prompt=template.format(problem.text),
            reference=problem.reference_answer,
            completion="",
            length=4,
            finished=True,
            format=1.0,
            answer=float(index in right_problems),
        )
        for index, problem in enumerate(problems())
        for sample in range(num_samples)
    ]


def evaluated(
    folder: Path, found: list[EvalSample], *, temperature: float = 1.0, of: list[Problem] | None = None
) -> Path:
    records = EvalFolder(folder, {"model.path": folder.name, "eval.temperature": temperature})
    records.begin("sums", of or problems(), num_samples=2)
    records.finish("sums", found, summarize(found, name="sums"))
    return folder


def test_a_difference_has_an_interval_and_a_p_value(tmp_path: Path) -> None:
    first = evaluated(tmp_path / "a", samples(range(30), template="A {}"))
    second = evaluated(tmp_path / "b", samples(range(20), num_samples=4, template="B {}"), temperature=0.5)
    comparison = compare_folders(first, second)
    (found,) = comparison.sets
    assert (found.name, found.num_problems, found.first, found.second) == ("sums", NUM_PROBLEMS, 0.75, 0.5)
    assert found.difference.mean == 0.25
    assert 0.1 < found.difference.low < 0.25 < found.difference.high < 0.45
    assert found.difference.p_value < 0.01
    assert comparison.settings == (("model.path", "a", "b"), ("eval.temperature", 1.0, 0.5))


def test_evaluations_of_a_run_have_no_summary_and_compare_by_their_prompts(tmp_path: Path) -> None:
    for name, right in (("a", range(10)), ("b", range(5, 15)), ("c", range(10))):
        (tmp_path / name).mkdir()
        template = "other {}" if name == "c" else "{}"
        write_samples(tmp_path / name / "sums.jsonl", samples(right, template=template))
    (found,) = compare_folders(tmp_path / "a", tmp_path / "b").sets
    assert found.difference.mean == 0.0
    assert found.difference.low < 0.0 < found.difference.high
    assert found.difference.p_value > 0.5
    with pytest.raises(EvalRecordError, match="sums has other problems in"):
        compare_folders(tmp_path / "a", tmp_path / "c")
    assert compare_folders(tmp_path / "a", evaluated(tmp_path / "d", samples(range(10)))).settings == ()


def test_other_sets_other_problems_and_unfinished_evaluations_are_refused(tmp_path: Path) -> None:
    first = evaluated(tmp_path / "a", samples(range(30)))
    (tmp_path / "other").mkdir()
    write_samples(tmp_path / "other" / "more.jsonl", [replace(sample, set="more") for sample in samples(range(2))])
    with pytest.raises(EvalRecordError, match=r"a has sums and .*other has more; evaluate both on the same sets"):
        compare_folders(first, tmp_path / "other")
    with pytest.raises(EvalRecordError, match="nothing holds no evaluation"):
        compare_folders(first, tmp_path / "nothing")

    moved = evaluated(tmp_path / "moved", samples(range(30)), of=problems(first=1))
    with pytest.raises(EvalRecordError, match="sums has other problems in"):
        compare_folders(first, moved)
    fewer = evaluated(tmp_path / "fewer", samples(range(30))[:20], of=problems(number=10))
    with pytest.raises(EvalRecordError, match=r"other problems in .* \(40 and 10\)"):
        compare_folders(first, fewer)

    records = EvalFolder(tmp_path / "begun", {"model.path": "begun"})
    records.begin("sums", problems(), num_samples=2)
    records.append("sums", samples(range(30))[:2])
    with pytest.raises(EvalRecordError, match=r"the evaluation of sums in .*begun is not finished"):
        compare_folders(first, tmp_path / "begun")


def test_tables_fit_a_terminal_of_80_characters(tmp_path: Path) -> None:
    first, second = (evaluated(tmp_path / name, samples(range(30 - n))) for n, name in enumerate("ab"))
    metrics = {**summarize(samples(range(30)), name="deepmath_hard"), **summarize(samples(range(4)), name="aime24")}
    console = Console(width=80, record=True, quiet=False, file=(tmp_path / "out").open("w"))
    console.print(summary_table(metrics, {"deepmath_hard": 1319, "aime24": 30}, num_samples=2))
    console.print(comparison_table(compare_folders(first, second)))
    text = console.export_text()
    assert "…" not in text
    words = [line.split() for line in text.splitlines()]
    assert words[0] == ["set", "problems", "pass@1", "95", "%", "pass@2", "format", "length", "cut", "off"]
    assert words[1][:3] == ["deepmath_hard", "1,319", "75.0%"]
    assert words[4][:5] == ["sums", "40", "75.0%", "72.5%", "+2.5"]
