"""What a run is told of its task before anything starts, and what it is refused for."""

import json
import sys
from pathlib import Path

import pytest
from data_files import COPIED_FILES, OWN_FILES, custom_config, data_config, needs_copies
from tiny_chat_model import tiny_chat_tokenizer

from configs.loading import ConfigError, load_config
from configs.schema import RunConfig
from orchestration.task_loading import LoadedTask, load_task
from rollout.prompts import prompt_encoder, prompt_renderer

FIFTEEN = "word0 word1 word2 word3 word4 word5 word6 word7 word8 word9 word10 word11 word12 word13 word14"


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_chat_tokenizer().save_pretrained(folder)
    return folder


def rows(path: Path, *questions: str) -> Path:
    path.write_text("".join(f"{json.dumps({'question': question, 'answer': 1})}\n" for question in questions))
    return path


def loaded(config: RunConfig, folder: Path) -> LoadedTask:
    return load_task(config, lambda: folder)


def refused(config: RunConfig, folder: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_task(config, lambda: folder)
    return caught.value.lines


def test_the_arithmetic_task_needs_neither_data_sets_nor_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    found = load_task(load_config([]), lambda: pytest.fail("asked for the model"))
    assert found.notices == ()
    assert len(found.task.train_problems()) == 7700


def test_counts_are_told_in_one_line(tmp_path: Path, tokenizer_folder: Path) -> None:
    first = rows(tmp_path / "a.jsonl", "a", "b", "A", "x" * 5000)
    second = rows(tmp_path / "b.jsonl", "b", "c", "d")
    config = custom_config(first, f"task.train.other.path={second}")
    assert loaded(config, tokenizer_folder).notices == (
        "task custom: mine 2 + other 2 problems, 2 duplicates and 1 prompt over 1,536 tokens left out",
    )


def test_the_limit_is_on_the_whole_prompt_to_the_token(tmp_path: Path, tokenizer_folder: Path) -> None:
    path = rows(tmp_path / "a.jsonl", "a" * 20, "b" * 21)
    config = custom_config(path)
    render = prompt_renderer(config.task, tiny_chat_tokenizer())
    length = len(prompt_encoder(tiny_chat_tokenizer())(render("a" * 20)))
    limited = custom_config(path, f"task.max_prompt_tokens={length}")
    found = loaded(limited, tokenizer_folder)
    assert [problem.text for problem in found.task.train_problems()] == ["a" * 20]
    assert found.notices == (f"task custom: 1 problem, 0 duplicates and 1 prompt over {length} tokens left out",)


def test_long_prompts_of_evaluation_sets_and_rows_without_answer_are_told(
    tmp_path: Path, tokenizer_folder: Path
) -> None:
    train = tmp_path / "a.jsonl"
    train.write_text('{"question": "a", "answer": "1"}\n{"question": "b", "answer": null}\n')
    held = rows(tmp_path / "b.jsonl", "short", "x" * 5000)
    found = loaded(custom_config(train, f"task.eval.own.path={held}"), tokenizer_folder)
    assert found.notices[1:] == (
        "task.train.mine: 1 row without a question or an answer left out",
        "task.eval.own: 1 prompt over 1,536 tokens left out, 1 remain",
        "contamination own: 0 of 1 training problems share 13 words in a row with it",
    )
    assert [problem.text for problem in found.task.eval_sets()["own"]] == ["short"]


@pytest.mark.parametrize("drop", [False, True])
def test_contamination_is_told_and_dropped_where_asked(tmp_path: Path, tokenizer_folder: Path, *, drop: bool) -> None:
    train = rows(tmp_path / "a.jsonl", f"{FIFTEEN} one", "clean", f"so {FIFTEEN}!")
    held = rows(tmp_path / "b.jsonl", FIFTEEN)
    other = rows(tmp_path / "c.jsonl", "unrelated")
    sets = [f"task.eval.own.path={held}", f"task.eval.other.path={other}"]
    found = loaded(custom_config(train, *sets, f"task.drop_contaminated={str(drop).lower()}"), tokenizer_folder)
    own, clean = (line for line in found.notices if line.startswith("contamination"))
    assert own.startswith("contamination own: 2 of 3 training problems share 13 words in a row with it")
    assert ("and are left out" in own) == drop
    assert clean == "contamination other: 0 of 3 training problems share 13 words in a row with it"
    assert len(found.task.train_problems()) == (1 if drop else 3)


def test_a_task_that_is_left_with_nothing_is_refused(tmp_path: Path, tokenizer_folder: Path) -> None:
    path = rows(tmp_path / "a.jsonl", FIFTEEN)
    (line,) = refused(custom_config(path, "task.max_prompt_tokens=20"), tokenizer_folder)
    assert line.startswith("task.train.mine: no problem is left without prompts over task.max_prompt_tokens=20")
    sets = [f"task.eval.own.path={path}", "task.drop_contaminated=true"]
    (line,) = refused(custom_config(path, *sets), tokenizer_folder)
    assert line.startswith("task.train.mine: no problem is left without contaminated problems")


def test_data_sets_are_refused_before_the_tokenizer_is_asked_for(tmp_path: Path) -> None:
    missing = [f"task.eval.own.path={tmp_path}/b.jsonl"]
    with pytest.raises(ConfigError) as caught:
        load_task(custom_config(tmp_path / "a.jsonl", *missing), lambda: pytest.fail("asked for the model"))
    assert [line.partition("=")[0] for line in caught.value.lines] == ["task.train.mine.path", "task.eval.own.path"]


def test_a_tokenizer_without_chat_template_is_refused_with_the_remedy(tmp_path: Path) -> None:
    tokenizer = tiny_chat_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "plain")
    path = rows(tmp_path / "a.jsonl", "a")
    (line,) = refused(custom_config(path), tmp_path / "plain")
    assert line.startswith("task.prompt.style=chat: the tokenizer of ")
    assert "set task.prompt.style=plain" in line
    assert len(loaded(custom_config(path, "task.prompt.style=plain"), tmp_path / "plain").task.train_problems()) == 1


def test_a_model_without_tokenizer_is_refused_in_one_line(tmp_path: Path) -> None:
    (line,) = refused(custom_config(rows(tmp_path / "a.jsonl", "a")), tmp_path / "nowhere")
    assert line.startswith(f"model.path={tmp_path}/nowhere: its tokenizer cannot be loaded")


def test_own_rows_load_as_a_mixture(tokenizer_folder: Path) -> None:
    found = loaded(data_config(OWN_FILES), tokenizer_folder)
    assert found.notices[0] == (
        "task gsm8k_deepmath: gsm8k 24 + deepmath 12 problems, 0 duplicates and 0 prompts over 1,536 tokens left out"
    )
    told = [line.partition(";")[0] for line in found.notices[1:]]
    assert told == [
        "contamination gsm8k: 24 of 36 training problems share 13 words in a row with it",  # the same file
        "contamination math500: 0 of 36 training problems share 13 words in a row with it",
        "contamination aime24: 0 of 36 training problems share 13 words in a row with it",
    ]


@needs_copies
def test_copies_of_the_public_sets_load_as_the_papers_task(tokenizer_folder: Path) -> None:
    found = loaded(data_config(COPIED_FILES), tokenizer_folder)
    assert found.notices[0].startswith("task gsm8k_deepmath: gsm8k 7,473 + deepmath 32 problems, 0 duplicates and 0 ")
    counts = [line for line in found.notices if line.startswith("contamination")]
    assert [line.split()[1:3] for line in counts] == [
        ["gsm8k:", "4"],
        ["math500:", "0"],
        ["aime24:", "0"],
        ["aime25:", "0"],
    ]
