"""`experiment=paper` is the paper's recipe: each row, in the settings and in what dry_run=true prints. Its siblings."""

import re
from collections.abc import Callable

import pytest

from configs.loading import ConfigError, load_config
from configs.objective import ObjectiveConfig
from configs.schema import RunConfig
from configs.tasks import DataTaskConfig
from orchestration.dry_run import describe

PAPER = load_config(["experiment=paper"])
PRINTED = describe(PAPER)


def sources(config: RunConfig) -> dict[str, tuple[str, float]]:
    assert isinstance(config.task, DataTaskConfig)
    return {name: (source.path, source.weight) for name, source in config.task.train.items()}


# (row of the recipe, what it is in the configuration, the paper's value, a line of the dry run)
ROWS: list[tuple[str, Callable[[RunConfig], object], object, str]] = [
    ("model", lambda c: c.model.path, "Qwen/Qwen2.5-7B-Instruct", r"path: Qwen/Qwen2\.5-7B-Instruct"),
    (
        "data",
        sources,
        {"gsm8k": ("openai/gsm8k", 1.0), "deepmath": ("zwhe99/DeepMath-103K", 1.0)},
        r"name: gsm8k_deepmath",
    ),
    ("completions per prompt", lambda c: c.rollout.completions_per_prompt, 8, r"128 = 16 prompts x 8 completions"),
    (
        "max prompt length",
        lambda c: (getattr(c.task, "max_prompt_tokens", None), c.model.max_model_len - c.rollout.max_new_tokens),
        (1536, 1536),
        r"tokens per prompt +at most 1536",
    ),
    ("max completion length", lambda c: c.rollout.max_new_tokens, 512, r"tokens per completion +at most 512;"),
    (
        "per-device batch 1, gradient accumulation 16, 8 GPUs",
        lambda c: c.rollout.prompts_per_iteration * c.rollout.completions_per_prompt // c.learner.num_minibatches,
        1 * 16 * 8,
        r"16 a step over 8 GPUs: per-device batch 1 x accumulation 16",
    ),
    (
        "gradient updates per batch of rollouts",
        lambda c: c.learner.num_minibatches * c.learner.num_epochs,
        2,
        r"steps per iteration +2 = 1 minibatch x 2 epochs",
    ),
    (
        "precision",
        lambda c: (c.rollout.dtype, c.learner.dtype),
        ("bfloat16", "bfloat16"),
        r"engines bfloat16, learner bfloat16",
    ),
    ("learning rate", lambda c: c.learner.lr, 1e-6, r"learning rate +1e-06"),
    ("betas", lambda c: c.learner.betas, (0.9, 0.999), r"AdamW, betas 0\.9 and 0\.999"),
    ("eps", lambda c: c.learner.eps, 1e-8, r"eps 1e-08"),
    ("schedule", lambda c: c.learner.lr_schedule, "linear", r"falling linearly to 0, no warm-up"),
    (
        "steps",
        lambda c: c.num_iterations * c.learner.num_minibatches * c.learner.num_epochs,
        5000,
        r"steps in all +5000 in 2500 iterations",
    ),
    (
        "hardware",
        lambda c: (c.cluster.device, c.rollout.num_engines * c.rollout.tensor_parallel_size + c.learner.num_workers),
        ("gpu", 8),
        r"needed on GPUs +\d+ CPU, 8 GPU: 4 engine\(s\) of 1 GPU, 1 CPU and 4 learner rank\(s\) of 1 GPU, 1 CPU",
    ),
    (
        "evaluation",
        lambda c: (getattr(c.task, "eval", {}).keys(), c.eval.num_prompts, c.eval.temperature),
        ({"gsm8k", "math500", "aime24", "aime25"}, "all", 0.7),
        r"evaluation +gsm8k, math500, aime24, aime25: all problems, 1 sample at temperature 0\.7",
    ),
    (
        "objective (2): the mean over completions of their token means, no KL and no entropy term",
        lambda c: (c.objective, c.learner.loss_aggregation, c.max_staleness),
        (ObjectiveConfig(), "sequence_mean", 0),
        r"ratio by token, advantage group_std, loss sequence_mean, KL coefficient 0, entropy coefficient 0",
    ),
    (
        "temperatures",
        lambda c: (getattr(c.gate, "tau_pos", None), getattr(c.gate, "tau_neg", None)),
        (10.0, 12.0),
        r"gate +softsign, tau_pos=10, tau_neg=12",
    ),
]


@pytest.mark.parametrize(("row", "setting", "value", "line"), ROWS, ids=[row for row, *_ in ROWS])
def test_each_row_of_the_recipe(row: str, setting: Callable[[RunConfig], object], value: object, line: str) -> None:
    assert setting(PAPER) == value
    assert len([printed for printed in PRINTED.splitlines() if re.search(line, printed)]) == 1, PRINTED


def test_ratios_leave_one_so_that_gates_differ() -> None:
    assert "warning" not in PRINTED


@pytest.mark.parametrize("gate", ["sigmoid", "erf", "arctan", "softsign", "grpo"])
def test_every_gate_of_the_paper_takes_the_recipe(gate: str) -> None:
    chosen = load_config(["experiment=paper", f"gate={gate}"])
    assert chosen.learner == PAPER.learner
    assert chosen.gate.name == ("clip" if gate == "grpo" else gate)


def test_one_gpu_has_the_paper_s_batch_and_optimizer() -> None:
    config = load_config(["experiment=paper_1gpu"])
    assert config.task == PAPER.task
    for name in ("prompts_per_iteration", "completions_per_prompt", "max_new_tokens", "temperature", "dtype"):
        assert getattr(config.rollout, name) == getattr(PAPER.rollout, name), name
    for name in ("lr", "betas", "eps", "lr_schedule", "num_minibatches", "num_epochs", "dtype", "old_logprobs"):
        assert getattr(config.learner, name) == getattr(PAPER.learner, name), name
    assert config.num_iterations == PAPER.num_iterations
    assert "2 CPU, 1 GPU: 1 engine(s) of 0.4 GPU, 1 CPU and 1 learner rank(s) of 0.6 GPU, 1 CPU" in describe(config)


def test_tiny_has_the_shape_of_the_recipe_and_needs_nothing() -> None:
    config = load_config(["experiment=tiny"])
    assert (config.model.path, config.task.name) == ("embedded", "arithmetic")
    assert (config.rollout.prompts_per_iteration, config.rollout.completions_per_prompt) == (16, 8)
    for name in ("betas", "eps", "lr_schedule", "num_minibatches", "num_epochs", "weight_decay", "max_grad_norm"):
        assert getattr(config.learner, name) == getattr(PAPER.learner, name), name
    assert "steps per iteration       2 = 1 minibatch x 2 epochs" in describe(config)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["cluster.gpus_per_learner=0.6", "publish.backend=nccl"], "publish.backend=nccl: needs a GPU of its own"),
        (
            ["cluster.gpus_per_engine=0.4", "rollout.gpu_memory_utilization=0.3", "rollout.tensor_parallel_size=2"],
            "cluster.gpus_per_engine=0.4: must be 1 with rollout.tensor_parallel_size=2",
        ),
        (["cluster.gpus_per_engine=0.4"], "rollout.gpu_memory_utilization=0.85: must be at most"),
        (["cluster.gpus_per_learner=0.5"], "cluster.gpus_per_learner=0.5: must be greater than 0.5"),
    ],
)
def test_gpus_are_shared_within_bounds(settings: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_config(settings)


def test_a_replay_needs_no_engine_and_says_where_its_groups_are() -> None:
    text = describe(load_config(["experiment=tiny", "rollout.replay=groups", "cluster.device=cpu"]))
    assert "groups                    recorded ones of groups: no engines, no graders" in text
    assert "0.5 CPU: 1 learner rank(s) of 0.5 CPU" in text
    assert "engine(s)" not in text
    assert "groups recorded to        there" in describe(load_config(["rollout.record=there"]))


def test_a_replay_moves_the_ratio_unless_its_denominator_is_recomputed() -> None:
    one_step = ["learner.num_minibatches=1", "rollout.replay=groups", "cluster.device=cpu"]
    assert "warning" not in describe(load_config(one_step))
    assert "warning" in describe(load_config([*one_step, "learner.old_logprobs=recompute"]))
