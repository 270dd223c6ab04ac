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


def test_training_refuses_what_would_bias_the_ratio() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.top_p=0\.9: no such setting"):
        load_config(["rollout.top_p=0.9"])


@pytest.mark.parametrize(("setting", "expected"), [("auto", 32), ("7", 7)])
def test_a_run_evaluates_with_its_own_length_unless_told_otherwise(setting: str, expected: Any) -> None:
    config = load_config([f"eval.max_new_tokens={setting}"])
    assert config.eval.limit_new_tokens(config.rollout.max_new_tokens) == expected
