"""Sections of data tasks: the public sets and a set of one's own."""

import re

import pytest
import yaml
from data_files import LONG_SEQUENCES, ROOT

from configs.command import help_text
from configs.loading import load_config
from configs.tasks import SYSTEM_PROMPT, DataTaskConfig

PUBLIC = {  # hub name, subset, split, question column, answer column, extraction
    "train.gsm8k": ("openai/gsm8k", "main", "train", "question", "answer", "hashes"),
    "train.deepmath": ("zwhe99/DeepMath-103K", None, "train", "question", "final_answer", "plain"),
    "eval.gsm8k": ("openai/gsm8k", "main", "test", "question", "answer", "hashes"),
    "eval.math500": ("HuggingFaceH4/MATH-500", None, "test", "problem", "answer", "plain"),
    "eval.aime24": ("math-ai/aime24", None, "test", "problem", "answer|solution", "boxed_or_plain"),
    "eval.aime25": ("math-ai/aime25", None, "test", "problem", "answer", "plain"),
}


def task_of(*settings: str) -> DataTaskConfig:
    task = load_config([*LONG_SEQUENCES, *settings]).task
    assert isinstance(task, DataTaskConfig)
    return task


@pytest.mark.parametrize(
    ("choice", "trained"), [("gsm8k", ["gsm8k"]), ("deepmath", ["deepmath"]), ("gsm8k_deepmath", ["gsm8k", "deepmath"])]
)
def test_public_names_and_columns(choice: str, trained: list[str]) -> None:
    task = task_of(f"task={choice}")
    expected = {key: PUBLIC[key] for key in PUBLIC if key.startswith("eval.") or key.partition(".")[2] in trained}
    assert {
        f"{part}.{name}": (s.path, s.subset, s.split, s.question_column, s.answer_column, s.extraction)
        for part, name, s in task.sets()
    } == expected
    assert {section.weight for section in task.train.values()} == {1.0}
    assert (task.max_prompt_tokens, task.drop_contaminated) == (1536, False)
    assert (task.prompt.style, task.prompt.system) == ("chat", SYSTEM_PROMPT)


def test_one_set_is_replaced_and_the_others_stay() -> None:
    task = task_of("task=gsm8k_deepmath", "task.train.gsm8k.path=/data/gsm8k.jsonl", "task.eval.aime24=null")
    assert task.train["gsm8k"].path == "/data/gsm8k.jsonl"
    assert task.train["gsm8k"].extraction == "hashes"
    assert task.train["deepmath"].path == "zwhe99/DeepMath-103K"
    assert list(task.eval) == ["gsm8k", "math500", "aime25"]


def test_a_set_of_ones_own_by_settings_only() -> None:
    mine = "task.train.mine"
    settings = [f"{mine}.path=my.parquet", f"{mine}.question_column=prompt", f"{mine}.extraction=boxed"]
    task = task_of("task=custom", *settings, "task.eval.held.path=org/held-out")
    assert task.train["mine"].is_file
    assert not task.eval["held"].is_file
    assert (task.train["mine"].split, task.eval["held"].split) == ("train", "test")
    assert task.train["mine"].answer_columns == ("answer",)
    assert task_of("task=gsm8k", *settings).train.keys() == {"gsm8k", "mine"}


def test_prompts_have_the_room_that_the_longest_completion_leaves() -> None:
    settings = ["task=gsm8k", "model.max_model_len=2000", "rollout.max_new_tokens=512"]
    assert task_of(*settings, "task.max_prompt_tokens=1488").max_prompt_tokens == 1488


def test_evaluation_prompts_are_bounded_by_held_out_for_sums_only() -> None:
    assert load_config([*LONG_SEQUENCES, "task=gsm8k", "eval.num_prompts=5000"]).eval.num_prompts == 5000


def test_the_section_of_every_task_answers_the_same_questions() -> None:
    sums = load_config([]).task
    assert (sums.eval_set_names, sums.held_out, sums.max_prompt_tokens, sums.prompt) == (
        ("arithmetic",),
        400,
        None,
        None,
    )
    assert not sums.reads_data
    assert sums.for_evaluation(["arithmetic"]) == sums
    data = task_of("task=gsm8k", "task.max_prompt_tokens=77")
    assert data.eval_set_names == ("gsm8k", "math500", "aime24", "aime25")
    assert (data.held_out, data.max_prompt_tokens, data.reads_data) == (None, 77, True)
    chosen = data.for_evaluation(["aime24", "gsm8k"])
    assert (chosen.eval_set_names, chosen.train) == (("aime24", "gsm8k"), {})
    assert chosen.eval["gsm8k"] == data.eval["gsm8k"]


def test_a_run_evaluates_where_it_has_engines_and_evaluation_sets() -> None:
    own = ["task=custom", "task.train.mine.path=a.jsonl"]
    assert load_config([]).evaluates
    assert not load_config(["rollout.replay=groups"]).evaluates
    assert not load_config([*LONG_SEQUENCES, *own]).evaluates
    assert load_config([*LONG_SEQUENCES, *own, "task.eval.held.path=b.jsonl"]).evaluates


def test_help_lists_the_settings_of_a_set_under_a_name_of_ones_own() -> None:
    lines = help_text().splitlines()
    for line in (
        "task.train.<name>.path=...",
        "task.train.<name>.split=train",
        "task.eval.<name>.split=test",
        "task.train.<name>.weight=1.0",
        "task.max_prompt_tokens=1536",
        "task.prompt.style=chat",
    ):
        assert lines.count(f"  {line}") == 1, line
    assert not any(line.startswith("  task.eval.<name>.weight") for line in lines)


def test_the_examples_of_the_documentation_load() -> None:
    text = (ROOT / "docs" / "data.md").read_text().replace("\\\n", " ")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    task = DataTaskConfig.model_validate(yaml.safe_load(example))
    assert (list(task.train), task.train["mine"].weight, list(task.eval)) == (["mine", "gsm8k"], 2.0, ["held"])
    commands = re.findall(r"^python orchestration/run\.py (.*)$", text, flags=re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        settings = command.replace("...", "").split()
        loaded = load_config([*LONG_SEQUENCES, *settings]).task
        assert isinstance(loaded, DataTaskConfig)
        assert all(section.is_file for _, _, section in loaded.sets())
