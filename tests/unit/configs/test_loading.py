"""Settings that are accepted, and how mistakes are reported together; mistakes/ has the line for each."""

import pytest

from configs.gates import ClipGateConfig, SoftGateConfig
from configs.loading import ConfigError, dump_yaml, load_config, read_yaml, validate


def lines_of(*settings: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(settings)
    assert str(caught.value) == "\n".join(caught.value.lines)
    return caught.value.lines


def test_settings_of_the_fixed_names() -> None:
    model = "gate=softsign gate.tau_pos=5 rollout.num_engines=2 learner.num_workers=2 learner.zero_stage=3"
    run = "cluster.address=head:6379 max_staleness=1 seed=7 run_dir=runs/x resume=true dry_run=true"
    config = load_config([*model.split(), *run.split()])
    assert config.gate == SoftGateConfig(name="softsign", tau_pos=5.0, tau_neg=12.0)
    assert (config.rollout.num_engines, config.learner.num_workers, config.learner.zero_stage) == (2, 2, 3)
    assert (config.cluster.address, config.max_staleness, config.seed) == ("head:6379", 1, 7)
    assert (config.run_dir, config.resume, config.dry_run) == ("runs/x", True, True)


def test_clip_takes_its_own_parameters() -> None:
    gate = load_config(["gate=clip", "gate.epsilon_low=0.1"]).gate
    assert gate == ClipGateConfig(name="clip", epsilon_low=0.1, epsilon_high=0.2)


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_keys_no_yaml_file_lists_need_no_plus(prefix: str) -> None:
    assert load_config([f"{prefix}publish.timeout_s=60"]).publish.timeout_s == 60.0


def test_corrections_and_punishment_where_they_have_an_effect() -> None:
    recomputed = ["objective.correction=mis", "learner.old_logprobs=recompute", "cluster.device=cpu"]
    punished = ["objective.overlong=punish", "objective.overlong_buffer=32"]
    objective = load_config([*recomputed, *punished]).objective
    assert (objective.correction, objective.correction_cap, objective.overlong_buffer) == ("mis", 2.0, 32)
    assert load_config(["objective.correction=tis"]).cluster.device == "auto", "known when the cluster is"


def test_the_last_of_two_settings_holds() -> None:
    assert load_config(["gate=clip", "seed=1", "gate=erf", "seed=2"]).gate.name == "erf"
    assert load_config(["seed=1", "seed=2"]).seed == 2


def test_lists_and_interpolations() -> None:
    config = load_config(["learner.betas=[0.8,0.9]", "run_dir='runs/${gate.name}-${seed}'"])
    assert config.learner.betas == (0.8, 0.9)
    assert config.run_dir == "runs/softsign-0"  # the seed is a default of the schema, not in a YAML file


def test_all_mistakes_are_told_at_once() -> None:
    unread = ["gate=softsing", "foo"]
    refused = ["rollout.num_engines=0", "learner.zero=3"]
    hidden = ["gate.epsilon_low=0.1", "task.held_out=9"]  # may be right once the others are corrected
    assert [line.partition(":")[0] for line in lines_of(*unread, *hidden, *refused)] == [*unread, *refused]


def test_a_long_value_is_cut_and_stays_on_one_line() -> None:
    (line,) = lines_of("num_iterations='" + "x\ny" * 100 + "'")
    assert "\n" not in line
    assert len(line) < 150


def test_validate_takes_a_plain_tree() -> None:
    config = validate({"gate": {"name": "clip"}, "task": {"name": "arithmetic"}, "learner": {"lr": 1}})
    assert (config.gate.name, config.learner.lr) == ("clip", 1.0)
    with pytest.raises(ConfigError, match=r"^gate: missing.*\ntask: missing.*\nseeed=1: no such setting"):
        validate({"seeed": 1})


def test_yaml_keeps_every_value() -> None:
    config = load_config(["gate.tau_pos=0.1", "learner.lr=1e-7", "learner.betas=[0.5,0.999]", "run_dir='a: #b'"])
    text = dump_yaml(config)
    assert read_yaml(text) == config
    assert "lr: 1.0e-07" in text


@pytest.mark.parametrize(
    ("text", "line"),
    [("[1, 2]", "must be a mapping"), ("seed: -1", "seed=-1: must be greater"), ("{a", "not readable as YAML")],
)
def test_yaml_that_is_no_configuration(text: str, line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        read_yaml(text)
