"""Settings that `python -m orchestration.evaluate` accepts, their defaults, and the lines about mistakes."""

import re
from typing import Any

import pytest

from configs.loading import ConfigError, load_config
from orchestration.evaluate.command import EvaluateRequest, evaluate_help_text, read_evaluate_command


def request_of(*arguments: str) -> EvaluateRequest:
    request = read_evaluate_command(arguments)
    assert isinstance(request, EvaluateRequest)
    return request


def lines_of(*arguments: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        read_evaluate_command(arguments)
    return caught.value.lines


def test_a_model_alone_is_evaluated_on_the_papers_sets_in_full() -> None:
    request = request_of("model=my-org/my_model-1.5B")
    config = request.config
    assert request.sets == ("gsm8k", "math500", "aime24", "aime25")
    assert request.out == "auto"
    assert (config.model.path, config.model.max_model_len) == ("my-org/my_model-1.5B", 2048)
    assert (config.task.name, config.eval.num_prompts, config.eval.samples) == ("gsm8k_deepmath", "all", 1)
    assert config.eval.limit_new_tokens(config.rollout.max_new_tokens) == 512


def test_the_embedded_model_brings_its_own_task() -> None:
    request = request_of("model=embedded", "samples=4", "temperature=1")
    assert (request.config.task.name, request.sets) == ("arithmetic", ("arithmetic",))
    assert request.config.rollout.enforce_eager
    assert request_of("model=embedded", "task=arithmetic") == request_of("model=embedded")


def test_short_names_stand_for_settings_of_eval_and_others_for_a_runs() -> None:
    config = request_of(
        "model=runs/x-001/model", "task=arithmetic", "samples=8", "temperature=0.7", "top_p=0.9", "max_new_tokens=20",
        "num_prompts=5", "seed=3", "rollout.num_engines=2", "cluster.cpus_per_engine=1",
    ).config  # fmt: skip
    evaluation = config.eval
    assert (evaluation.samples, evaluation.temperature, evaluation.top_p) == (8, 0.7, 0.9)
    assert (evaluation.max_new_tokens, evaluation.num_prompts, evaluation.seed) == (20, 5, 3)
    assert (config.rollout.num_engines, config.cluster.cpus_per_engine) == (2, 1.0)
    assert config.model.path == "runs/x-001/model"


def test_a_long_context_needs_no_setting_of_the_learner() -> None:
    config = request_of("model=m/m", "model.max_model_len=16384", "max_new_tokens=8192").config
    assert (config.model.max_model_len, config.eval.max_new_tokens) == (16384, 8192)


def test_a_shipped_model_keeps_its_own_length() -> None:
    shipped = load_config(["experiment=null", "model=qwen2_5_7b_instruct", "learner=paper"]).model
    assert request_of("model=qwen2_5_7b_instruct").config.model == shipped


def test_sets_and_folder() -> None:
    request = request_of("model=m/m", "sets=[aime24,gsm8k,aime24]", "out=evals/mine-1")
    assert (request.sets, request.out) == (("aime24", "gsm8k"), "evals/mine-1")


def test_compare_and_help_stand_alone() -> None:
    assert read_evaluate_command(["compare=[evals/a-1.2,/tmp/b]"]) == ("evals/a-1.2", "/tmp/b")
    assert read_evaluate_command(["compare=[a]", "--help"]) is None
    text = evaluate_help_text()
    for line in ("samples=1", "temperature=0.0", "num_prompts=all", "max_new_tokens=auto", "Exit status"):
        assert line in text


def test_the_examples_of_the_help_are_accepted() -> None:
    examples = re.findall(r"^  python -m orchestration\.evaluate (.*)$", evaluate_help_text(), flags=re.MULTILINE)
    assert len(examples) == 4
    for example in examples:
        read_evaluate_command(re.sub(r"<\w+>", "a", example).split())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "model: missing; give model=PATH"),
        (["model=m/m", "sets=[gsm9k]"], "sets=gsm9k: no such set, did you mean gsm8k? the task has gsm8k, math500"),
        (["model=m/m", "sets=gsm8k"], "sets=gsm8k: must be a list of set names"),
        (["model=m/m", "sets=gsm8k,aime24"], "sets=gsm8k,aime24: has several values; put a list in brackets"),
        (["model=m/m", "sets=[]"], "sets=[]: must be a list of set names"),
        (["model=m/m", "out=[a]"], "out=[a]: must be a folder"),
        (["model=m/m", "smaples=8"], "smaples=8: no such setting"),
        (["model=embedded", "samples=8"], "eval.samples=8: with eval.temperature=0 all samples of a problem are the"),
        (["model=embedded", "samples=0"], "eval.samples=0: must be greater than or equal to 1"),
        (["model=embedded", "top_p=0.5"], "eval.top_p=0.5: has no effect with eval.temperature=0"),
        (["model=embedded", "top_p=0", "temperature=1"], "eval.top_p=0: must be greater than 0"),
        (["model=embedded", "temperature=0.001"], "eval.temperature=0.001: must be 0 (greedy) or at least 0.01"),
        (["model=embedded", "temperature=3"], "eval.temperature=3: must be less than or equal to 2"),
        (["model=embedded", "max_new_tokens=0"], "eval.max_new_tokens=0: must be auto or a whole number from 1"),
        (["model=embedded", "max_new_tokens=64"], "eval.max_new_tokens=64: with a prompt of 1 token(s) it must fit"),
        (["model=m/m", "max_new_tokens=513"], "eval.max_new_tokens=513: with a prompt of 1536 token(s) it must fit"),
        (["model=embedded", "num_prompts=some"], "eval.num_prompts=some: must be all or a whole number from 1"),
        (["model=embedded", "num_prompts=401"], "eval.num_prompts=401: must be at most task.held_out=400"),
        (["model=m/m", "task=custom", "task.train.mine.path=a.jsonl"], "task.eval: names no set to evaluate on"),
        (["model=embedded", "dry_run=true"], "dry_run=true: has no effect on an evaluation; leave it out"),
        (["model=embedded", "rollout.replay=a"], "rollout.replay=a: has no effect on an evaluation"),
        (["compare=[a,b,c]"], "compare=[a,b,c]: must be two folders"),
        (["compare=[a,b]", "samples=8"], "samples=8: has no effect beside compare=[A,B]"),
        (["--quick"], "--quick: no such flag"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], line: str) -> None:
    (told,) = lines_of(*arguments)
    assert told.startswith(line), told


def test_training_refuses_what_would_bias_the_ratio() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.top_p=0\.9: no such setting"):
        load_config(["rollout.top_p=0.9"])


@pytest.mark.parametrize(("setting", "expected"), [("auto", 32), ("7", 7)])
def test_a_run_evaluates_with_its_own_length_unless_told_otherwise(setting: str, expected: Any) -> None:
    config = load_config([f"eval.max_new_tokens={setting}"])
    assert config.eval.limit_new_tokens(config.rollout.max_new_tokens) == expected
