"""Training on GSM8K and DeepMath rows, run as a user runs it: chat prompts, real engines, grader and learner."""

import json
from pathlib import Path

import pytest
from data_files import COPIED_FILES, HAS_COPIES, OWN_FILES, path_settings
from processes import actor_processes
from support import CommandRun, RunCommand
from tiny_chat_model import save_tiny_chat_model

from configs.loading import read_yaml
from configs.tasks import SYSTEM_PROMPT
from orchestration.task_loading import load_task
from rollout.prompts import PromptStream, load_tokenizer, prompt_encoder, prompt_renderer
from rollout.rewards import answer_reward, format_reward

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

FILES = COPIED_FILES if HAS_COPIES else OWN_FILES
# The tokenizer has a token a byte: the system prompt alone has 270.
ROOM = (
    "task.max_prompt_tokens=1000",
    "model.max_model_len=1024",
    "learner.max_tokens_per_micro_batch=2048",
)


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def trained(run_command: RunCommand, chat_model: Path, tmp_path_factory: pytest.TempPathFactory) -> CommandRun:
    """Two iterations, then a third as a resume."""
    folder = tmp_path_factory.mktemp("data") / "run"
    settings = [*path_settings(FILES), *ROOM, f"model.path={chat_model}", "gate=sigmoid"]
    first = run_command(folder, *settings, "num_iterations=2")
    assert first.status == 0, first.output
    changed = ("learner.max_tokens_per_micro_batch=1024", "learner.zero_stage=1", "num_iterations=3")
    resumed = run_command(folder, *settings, *changed, "resume=true")
    assert resumed.status == 0, resumed.output
    assert "continued with num_iterations=3, before 2: the linear schedule's learning rate at iteration 2 is " in (
        resumed.output
    )
    (line,) = [line for line in resumed.output.splitlines() if line.startswith("continued with learner.")]
    assert "learner.zero_stage=1, before 0" in line
    assert "learner.max_tokens_per_micro_batch=1024, before 2048" in line
    assert line.endswith(": results agree with those of the earlier settings up to rounding, not bit for bit")
    return first


def test_two_iterations_on_both_sources(trained: CommandRun) -> None:
    rows = trained.rows()
    assert [row["iteration"] for row in rows] == [0, 1, 2]
    assert all(row["mismatch/max"] < 1e-4 for row in rows), "engine and learner agree on prompts of this length"
    assert all(row["gate/eur"] == pytest.approx(row["audit/sigmoid/eur"], rel=1e-6) for row in rows)
    rollouts = trained.rows("rollouts.jsonl")
    assert [row["source"] for row in rollouts] == ["gsm8k", "deepmath"] * 6
    for row in rollouts:
        assert row["prompt"].startswith(f"<|im_start|>system\n{SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user\n")
        assert row["prompt"].endswith("<|im_end|>\n<|im_start|>assistant\n")
        assert row["reference_answer"]


def test_rewards_are_those_of_the_real_grader(trained: CommandRun) -> None:
    for row in trained.rows("rollouts.jsonl"):
        for completion in row["completions"]:
            text, reference_answer = completion["text"], row["reference_answer"]
            expected = {"format": format_reward(text), "answer": answer_reward(text, reference_answer)}
            assert completion["rewards"] == expected


def test_every_evaluation_set_is_evaluated(trained: CommandRun) -> None:
    names = {key.partition(".")[2] for key in FILES if key.startswith("eval.")}
    first, *_, last = trained.rows("eval.jsonl")
    assert (first["iteration"], last["iteration"]) == (0, 3)
    for name in names:
        assert 0 <= last[f"eval/{name}/pass@1"] <= 1
        assert 1 <= last[f"eval/{name}/length"] <= 16


def test_what_was_left_out_and_shared_is_told_at_start(trained: CommandRun) -> None:
    log = (trained.run_dir / "run.log").read_text()
    for text in (trained.output, log):
        assert "task gsm8k_deepmath: gsm8k " in text
        assert "over 1,000 tokens left out" in text
        assert "contamination gsm8k: " in text
        assert "contamination math500: " in text


def test_a_resume_goes_on_at_the_saved_position(trained: CommandRun, chat_model: Path) -> None:
    config = read_yaml((trained.run_dir / "config.yaml").read_text())
    tokenizer = load_tokenizer(str(chat_model), trust_remote_code=False)
    task = load_task(config, lambda: chat_model).task
    stream = PromptStream(
        task.train_problems(),
        prompt_encoder(tokenizer),
        seed=config.seed,
        weights=task.weights(),
        render=prompt_renderer(config.task, tokenizer),
    )
    rollouts = trained.rows("rollouts.jsonl")
    assert [row["position"] for row in rollouts] == list(range(12))
    assert [row["prompt"] for row in rollouts] == [stream.prompt_at(position).text for position in range(12)]


def test_a_set_that_cannot_be_used_is_told_in_one_line_and_nothing_starts(
    run_command: RunCommand, chat_model: Path, tmp_path: Path, no_process_left: None
) -> None:
    (tmp_path / "mine.jsonl").write_text(json.dumps({"prompt": "1+1?", "answer": "2"}))
    settings = ["task=custom", f"task.train.mine.path={tmp_path}/mine.jsonl", *ROOM, f"model.path={chat_model}"]
    before = actor_processes()
    run = run_command(tmp_path / "run", *settings)
    assert run.status == 2, run.output
    assert actor_processes() == before
    (line,) = [line for line in run.output.splitlines() if line.startswith("task.")]
    assert line == (
        f"task.train.mine.question_column=question: {tmp_path}/mine.jsonl has no such column, only prompt, answer; "
        "name one of these"
    )
    assert "starting engines" not in run.output
    assert "Traceback" not in run.output
