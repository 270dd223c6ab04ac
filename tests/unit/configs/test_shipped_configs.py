"""Every shipped YAML file composes to an accepted configuration and has the settings that its name promises."""

import pytest

from configs.gates import ClipGateConfig, SoftGateConfig
from configs.loading import CONFIG_DIR, config_groups, dump_yaml, load_config, read_yaml

LONG = ["model=qwen2_5_7b_instruct", "learner=paper"]
COMPANIONS = {  # settings that a choice needs: long sequences need long rows
    ("gate", "custom"): ["gate.factory=my_package.my_gate:make"],
    ("model", "qwen2_5_7b_instruct"): ["learner=paper"],
    ("rollout", "paper"): LONG,
    ("model", "qwen2_5_1_5b_instruct"): ["learner=paper_1gpu"],
    ("rollout", "paper_1gpu"): ["model=qwen2_5_1_5b_instruct", "learner=paper_1gpu"],
    ("cluster", "one_gpu"): ["rollout.gpu_memory_utilization=0.35"],
    ("task", "gsm8k"): LONG,
    ("task", "deepmath"): LONG,
    ("task", "gsm8k_deepmath"): LONG,
    ("task", "custom"): [*LONG, "task.train.mine.path=mine.jsonl"],
}
# Settings for learner=default and any cluster, for which an experiment's own choices do not fit.
SHORT = ["task=arithmetic", "model=embedded", "rollout=small", "eval.num_prompts=400"]
CHOICES = [(group, choice) for group, choices in config_groups().items() for choice in choices]


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_every_choice_loads_and_survives_a_round_trip(group: str, choice: str) -> None:
    config = load_config([f"{group}={choice}", *COMPANIONS.get((group, choice), [])])
    assert read_yaml(dump_yaml(config)) == config


def test_the_choices_are_the_files() -> None:
    files = {str(path.relative_to(CONFIG_DIR).with_suffix("")) for path in CONFIG_DIR.rglob("*.yaml")}
    parts = {"config", "task/_evaluation"}  # parts of choices
    assert files - parts == {f"{group}/{choice}" for group, choice in CHOICES}
    assert parts < files
    assert set(config_groups()) == {"gate", "model", "task", "rollout", "learner", "cluster", "experiment"}


@pytest.mark.parametrize("name", ["sigmoid", "erf", "arctan", "softsign"])
def test_soft_gates_have_the_temperatures_of_the_paper(name: str) -> None:
    expected = SoftGateConfig.model_validate({"name": name, "tau_pos": 10.0, "tau_neg": 12.0})
    assert load_config([f"gate={name}"]).gate == expected


def test_presets_are_the_published_settings() -> None:
    sapo = load_config(["gate=sapo"]).gate
    assert sapo == SoftGateConfig(name="sigmoid", tau_pos=1.0, tau_neg=1.05)
    assert load_config(["gate=grpo"]).gate == ClipGateConfig(name="clip", epsilon_low=0.2, epsilon_high=0.2)
    assert load_config(["gate=dapo"]).gate == ClipGateConfig(name="clip", epsilon_low=0.2, epsilon_high=0.28)


def test_clip_has_the_epsilon_of_the_paper() -> None:
    assert load_config(["gate=clip"]).gate == ClipGateConfig(name="clip", epsilon_low=0.2, epsilon_high=0.2)


def test_plain_command_is_the_arithmetic_experiment() -> None:
    config = load_config([])
    assert config == load_config(["experiment=arithmetic"])
    assert (config.gate.name, config.task.name, config.model.path) == ("softsign", "arithmetic", "embedded")
    assert (config.rollout.prompts_per_iteration, config.rollout.completions_per_prompt) == (16, 8)
    assert (config.rollout.max_new_tokens, config.rollout.temperature) == (32, 1.0)
    learner = config.learner
    assert (learner.lr, learner.lr_schedule, learner.num_minibatches) == (2e-4, "linear", 2)
    assert (learner.weight_decay, learner.max_grad_norm, learner.max_tokens_per_micro_batch) == (0.0, 1.0, 2048)
    assert (config.num_iterations, config.max_staleness) == (80, 0)
    cluster = config.cluster
    assert (cluster.address, cluster.cpus_per_engine, cluster.cpus_per_learner) == ("auto", 0.5, 0.5)


def test_paper_recipe() -> None:
    config = load_config(["experiment=null", "model=qwen2_5_7b_instruct", "rollout=paper", "learner=paper"])
    learner, rollout = config.learner, config.rollout
    assert (learner.lr, learner.betas, learner.eps, learner.lr_schedule) == (1e-6, (0.9, 0.999), 1e-8, "linear")
    assert learner.num_minibatches * learner.num_epochs == 2
    assert rollout.prompts_per_iteration * rollout.completions_per_prompt == 8 * 16  # ranks x accumulation
    assert (rollout.completions_per_prompt, rollout.max_new_tokens) == (8, 512)
    assert config.model.max_model_len - rollout.max_new_tokens == 1536  # tokens left for the prompt


@pytest.mark.parametrize("experiment", config_groups()["experiment"])
@pytest.mark.parametrize(("group", "choice"), [("gate", "clip"), ("learner", "default"), ("cluster", "default")])
def test_a_group_on_the_command_line_wins_over_the_experiment(experiment: str, group: str, choice: str) -> None:
    settings = [f"experiment={experiment}", f"{group}={choice}", *SHORT, "rollout.gpu_memory_utilization=0.35"]
    chosen = load_config(["experiment=null", f"{group}={choice}"])
    for order in (settings, settings[::-1]):
        assert getattr(load_config(order), group) == getattr(chosen, group)
