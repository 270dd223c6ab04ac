"""The task of data sets: duplicates, unusable sets, and problems left out afterwards."""

import json
from pathlib import Path

import pytest
from data_files import COPIED_FILES, OWN_FILES, custom_config, data_config, needs_copies

from configs.tasks import DataTaskConfig
from rollout.tasks import Problem, build_task
from rollout.tasks.data_sets import DataSetError
from rollout.tasks.data_task import DataTask, EmptiedSetError, without_duplicates


def write(path: Path, *questions: str) -> Path:
    path.write_text("".join(f"{json.dumps({'question': question, 'answer': 1})}\n" for question in questions))
    return path


def load(*arguments: object) -> DataTask:
    config = custom_config(*arguments).task  # type: ignore[arg-type]
    assert isinstance(config, DataTaskConfig)
    return DataTask.load(config)


def texts(problems: list[Problem]) -> list[str]:
    return [problem.text for problem in problems]


def test_mixture_of_two_sets_with_evaluation_sets() -> None:
    task = build_task(data_config(OWN_FILES, "task.train.gsm8k.weight=3").task)
    assert [problem.source for problem in task.train_problems()] == ["gsm8k"] * 24 + ["deepmath"] * 12
    assert {name: len(problems) for name, problems in task.eval_sets().items()} == {
        "gsm8k": 24,
        "math500": 12,
        "aime24": 6,
    }
    assert task.weights() == {"gsm8k": 3.0, "deepmath": 1.0}


def test_duplicates_within_and_across_sets_are_removed_the_first_stays(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", "What is  1+1?", "b", "what is 1+1? ")
    second = write(tmp_path / "b.jsonl", "B", "What is 1-1?", "c")
    task = load(first, f"task.train.other.path={second}")
    assert texts(task.train_problems()) == ["What is  1+1?", "b", "What is 1-1?", "c"]
    assert task.num_duplicates == 2
    assert task.num_by_source() == {"mine": 2, "other": 2}


def test_evaluation_sets_keep_their_rows(tmp_path: Path) -> None:
    task = load(write(tmp_path / "a.jsonl", "a"), f"task.eval.own.path={write(tmp_path / 'b.jsonl', 'b', 'b')}")
    assert texts(task.eval_sets()["own"]) == ["b", "b"]


def test_a_set_that_repeats_an_earlier_one_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "a", "b")
    with pytest.raises(DataSetError, match=r"task\.train\.again\.path=.*are in earlier sets too.*train\.again=null"):
        load(path, f"task.train.again.path={path}")


def test_all_sets_that_cannot_be_used_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataSetError) as caught:
        load(tmp_path / "a.jsonl", f"task.eval.own.path={tmp_path / 'b.jsonl'}", "task.eval.hub.path=some/set")
    keys = [line.partition(".path=")[0] for line in str(caught.value).splitlines()]
    assert keys == ["task.train.mine", "task.eval.own", "task.eval.hub"]


def test_selected_problems_are_those_that_the_caller_keeps() -> None:
    config = data_config(OWN_FILES).task
    task = DataTask.load(config).select(lambda problems: [len(p.text) > 80 for p in problems], evaluation_too=False)
    assert all(len(problem.text) > 80 for problem in task.train)
    assert len(task.evaluation["gsm8k"]) == 24
    both = DataTask.load(config).select(lambda problems: [len(p.text) > 80 for p in problems], evaluation_too=True)
    assert both.train == task.train
    assert 0 < len(both.evaluation["math500"]) < 12


def test_a_set_that_loses_everything_is_named() -> None:
    task = DataTask.load(data_config(OWN_FILES).task)
    with pytest.raises(EmptiedSetError) as caught:
        task.select(
            lambda problems: [problem.source not in ("deepmath", "aime24") for problem in problems], evaluation_too=True
        )
    assert caught.value.keys == ("task.train.deepmath", "task.eval.aime24")


@needs_copies
def test_duplicates_of_the_real_sets_against_an_independent_count() -> None:
    task = DataTask.load(data_config(COPIED_FILES).task)
    rows = [line for name in ("gsm8k", "deepmath") for line in COPIED_FILES[f"train.{name}"].open()]
    questions = {" ".join(json.loads(row)["question"].lower().split()) for row in rows}
    assert len(task.train) == len(questions)
    assert task.num_duplicates == len(rows) - len(questions)
    doubled = [*task.train, *task.train[::-1]]
    assert without_duplicates(doubled) == list(task.train)
