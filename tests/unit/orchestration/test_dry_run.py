"""The figures of a dry run, and the warning where gates cannot differ."""

import pytest

from configs.loading import load_config, read_yaml
from orchestration.dry_run import describe, ratio_warning


def line_of(text: str, name: str) -> str:
    (line,) = [line for line in text.splitlines() if line.strip().startswith(name)]
    return line.strip().removeprefix(name).strip()


def test_batch_arithmetic_where_nothing_divides() -> None:
    rollout = ["rollout.prompts_per_iteration=5", "rollout.completions_per_prompt=6"]
    learner = ["learner.num_minibatches=4", "learner.num_epochs=3", "learner.num_workers=2"]
    text = describe(load_config([*rollout, *learner, "num_iterations=7"]))
    assert line_of(text, "sequences per iteration") == "30 = 5 prompts x 6 completions"
    assert line_of(text, "sequences per minibatch") == "7 or 8 (4 minibatches)"
    assert line_of(text, "sequences per rank").startswith("about 3.75 a minibatch")
    assert line_of(text, "steps per iteration") == "12 = 4 minibatches x 3 epochs"
    assert line_of(text, "steps in all") == "84 in 7 iterations"
    assert line_of(text, "completions in all") == "210"


def test_placement_on_either_device() -> None:
    engines = ["rollout.num_engines=3", "rollout.tensor_parallel_size=2", "cluster.cpus_per_engine=1.5"]
    settings = [*engines, "learner.num_workers=4"]
    text = describe(load_config(settings))
    assert line_of(text, "engines") == "3 x tensor parallel 2"
    assert line_of(text, "learner ranks") == "4, ZeRO stage 0"
    assert line_of(text, "needed on CPUs").startswith("11 CPU:")  # 3 * 2 * 1.5 + 4 * 0.5
    assert line_of(text, "needed on GPUs").startswith("11 CPU, 10 GPU:")  # 3 * 2 + 4
    assert (
        line_of(describe(load_config([*settings, "rollout.min_engines=1"])), "engines") == "1 to 3 x tensor parallel 2"
    )
    assert "needed on GPUs" not in describe(load_config([*settings, "cluster.device=cpu"]))
    assert "needed on CPUs" not in describe(load_config([*settings, "cluster.device=gpu"]))


def test_the_printed_configuration_is_the_resolved_one() -> None:
    config = load_config(["gate=clip", "learner.lr=0.5"])
    block = describe(config).partition("\n\n")[0].removeprefix("Configuration\n")
    assert read_yaml(block) == config


@pytest.mark.parametrize(("max_staleness", "word"), [(0, "synchronous"), (2, "asynchronous")])
def test_order(max_staleness: int, word: str) -> None:
    assert line_of(describe(load_config([f"max_staleness={max_staleness}"])), "order").startswith(f"{word}:")


def test_order_of_finishing() -> None:
    told = describe(load_config(["max_staleness=3", "rollout.batch_order=finished"]))
    assert "finish first, at most 3 policy versions stale" in line_of(told, "order")


def test_the_reference_model_of_a_kl_term_is_told() -> None:
    assert "reference model" not in describe(load_config([]))
    kl = ["objective.kl_coef=0.01", "model.path=a/b"]
    assert line_of(describe(load_config(kl)), "reference model") == "a/b, frozen, in full on every rank"
    sharded = describe(load_config([*kl, "learner.zero_stage=3"]))
    assert line_of(sharded, "reference model") == "a/b, frozen, sharded over the ranks"


def test_warning_where_no_ratio_can_leave_one() -> None:
    config = load_config(["learner.num_minibatches=1"])
    warning = ratio_warning(config)
    assert warning is not None
    assert "\n" not in warning
    assert describe(config).endswith(warning)


@pytest.mark.parametrize(
    "settings", [["learner.old_logprobs=recompute"], ["learner.old_logprobs=auto", "cluster.device=gpu"]], ids=str
)
def test_recomputed_denominators_keep_the_ratio_at_one_at_any_staleness(settings: list[str]) -> None:
    stale = ["learner.num_minibatches=1", "max_staleness=3", *settings]
    warning = ratio_warning(load_config(stale))
    assert warning is not None
    assert "learner.old_logprobs=" in warning
    assert "or max_staleness" not in warning  # no remedy here
    assert ratio_warning(load_config([*stale, "learner.num_epochs=2"])) is None


@pytest.mark.parametrize("settings", [["learner.old_logprobs=rollout", "cluster.device=gpu"], ["cluster.device=cpu"]])
def test_stale_denominators_of_the_engines_move_the_ratio(settings: list[str]) -> None:
    assert ratio_warning(load_config(["learner.num_minibatches=1", "max_staleness=1", *settings])) is None


@pytest.mark.parametrize("remedy", ["learner.num_minibatches=2", "learner.num_epochs=2", "max_staleness=1"])
def test_no_warning_where_the_ratio_moves(remedy: str) -> None:
    config = load_config(["learner.num_minibatches=1", remedy])
    assert ratio_warning(config) is None
    assert "warning" not in describe(config)
