"""Settings that are accepted, and the one line for each kind of mistake."""

import pytest

from configs.gates import ClipGateConfig, SoftGateConfig
from configs.loading import ConfigError, dump_yaml, load_config, read_yaml, validate

GATE_CHOICES = "arctan, clip, custom, dapo, erf, grpo, power, sapo, sigmoid, softsign"


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


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("rollout.num_engine=2", "rollout.num_engine=2: no such setting, did you mean rollout.num_engines?"),
        ("num_engines=2", "num_engines=2: no such setting, did you mean rollout.num_engines?"),
        ("lr=1e-3", "lr=0.001: no such setting, did you mean learner.lr?"),
        ("lerner.lr=1", "lerner.lr=1: no such setting, did you mean learner.lr?"),
        ("gates=clip", "gates=clip: no such setting, did you mean gate?"),
        ("experimnt=smoke", "experimnt=smoke: no such setting, did you mean experiment?"),
        ("xyzzy=1", "xyzzy=1: no such setting, see --help"),
        ("gate.tau=3", "gate.tau=3: no such setting, did you mean gate.tau_pos?"),
        ("cluster=locl", "cluster=locl: no such choice, did you mean local? available: default, gpu, local, one_gpu"),
        ("cluster=kubernetes", "cluster=kubernetes: no such choice; available: default, gpu, local, one_gpu"),
        ("rollout=5", "rollout=5: no such choice; available: default, paper, paper_1gpu, small"),
        (
            "gate=null",
            f"gate=null: no such choice; available: {GATE_CHOICES}",
        ),
        ("gate.name=foo", "gate.name=foo: must be one of sigmoid, erf, arctan, softsign, power, clip, custom"),
        (
            "gate.adaptive.target=0.9",
            "gate.adaptive.target=0.9: no such setting, did you mean gate.adaptive.target_eur?",
        ),
        ("gate.adaptive.target_eur=1", "gate.adaptive.target_eur=1: must be less than 1"),
        (
            "gate.adaptive.tau_min=2000",
            "gate.adaptive.tau_min=2000: must be at most gate.adaptive.tau_max=1000",
        ),
        ("gate.match=width", "gate.match=width: must be none or half_width"),
        (
            "~gate",
            f"gate=null: no such choice; available: {GATE_CHOICES}",
        ),
        ("~gate.name", "~gate.name: a value cannot be deleted; leave it out for its default"),
        ("gate.name=null", "gate.name=null: must be one of sigmoid, erf, arctan, softsign, power, clip, custom"),
        (
            "graders=5",
            "graders=5: is a section and takes no value; set graders.num_workers, graders.timeout_s, "
            "graders.memory_gib, graders.max_processes, graders.max_restarts",
        ),
        ("seed.x=1", "seed.x=1: must be a valid integer"),
        ("gate.tau_pos=-1", "gate.tau_pos=-1: must be greater than 0"),
        ("gate.tau_pos=nan", "gate.tau_pos=nan: must be a finite number"),
        ("learner.lr=inf", "learner.lr=inf: must be a finite number"),
        ("learner.zero_stage=5", "learner.zero_stage=5: must be 0, 1, 2 or 3"),
        ("learner.lr_schedule=cosine", "learner.lr_schedule=cosine: must be linear or constant"),
        ("learner.betas=[0.9,1.5]", "learner.betas[1]=1.5: must be less than 1"),
        ("rollout.completions_per_prompt=1", "rollout.completions_per_prompt=1: must be greater than or equal to 2"),
        ("rollout.temperature=0.009", "rollout.temperature=0.009: must be greater than or equal to 0.01"),
        ("num_iterations=many", "num_iterations=many: must be a valid integer"),
        ("num_iterations='3'", "num_iterations=3: must be a valid integer"),
        ("seed=true", "seed=true: must be a valid integer"),
        ("resume=1", "resume=1: must be a valid boolean"),
        ("model.path=''", "model.path=: must have at least 1 character"),
        ("kl_coef=0.1", "kl_coef=0.1: no such setting, did you mean objective.kl_coef?"),
        ("objective.kl_coef=-1", "objective.kl_coef=-1: must be greater than or equal to 0"),
        ("objective.correction=full", "objective.correction=full: must be none, tis or mis"),
        ("objective.correction_cap=1", "objective.correction_cap=1: must be greater than 1"),
        (
            "objective.overlong=punish",
            "objective.overlong_buffer=0: must be at least 1 with objective.overlong=punish: it is the number of "
            "tokens over which the punishment grows",
        ),
        (
            "objective.overlong_buffer=4",
            "objective.overlong_buffer=4: has no effect with objective.overlong=keep; set objective.overlong=punish or "
            "leave it out",
        ),
        ("softsign", "softsign: settings are given as key=value, see --help"),
        ("gate=erf,clip", "gate=erf,clip: has several values; add -m to run one after the other, or quote it"),
        ("seed=1,2", "seed=1,2: has several values; add -m to run one after the other, or quote it"),
        ("~learner.lr", "~learner.lr: a value cannot be deleted; leave it out for its default"),
        ("hydra.run.dir=x", "hydra.run.dir=x: Hydra's own settings have no effect here; leave it out"),
        ("gate@other=clip", "gate@other=clip: groups have a fixed place here; leave out @other"),
        ("run_dir=${nowhere}", "run_dir: Interpolation key 'nowhere' not found"),
    ],
)
def test_one_line_for_each_kind_of_mistake(setting: str, line: str) -> None:
    assert lines_of(setting) == (line,)


def test_a_setting_that_cannot_be_parsed_is_told_in_one_line() -> None:
    (line,) = lines_of("run_dir={a")
    assert line.startswith("run_dir={a: cannot be read as key=value (")
    assert "quotes" in line


def test_a_parameter_of_another_gate() -> None:
    told = "gate.tau_pos=5: gate=clip has no such setting, only gate.epsilon_low, gate.epsilon_high, gate.kernel"
    assert lines_of("gate=clip", "gate.tau_pos=5") == (told,)


@pytest.mark.parametrize(
    ("settings", "key", "other"),
    [
        (["learner.num_workers=100"], "learner.num_minibatches=2: needs 200 completions", "there are 128"),
        (["rollout.max_new_tokens=64"], "rollout.max_new_tokens=64: must be less than", "model.max_model_len=64"),
        (
            ["model.max_model_len=2049"],
            "learner.max_tokens_per_micro_batch=2048: must be at least",
            "max_model_len=2049",
        ),
        (["task.held_out=10"], "eval.num_prompts=400: must be at most", "task.held_out=10"),
        (
            ["objective.overlong=punish", "objective.overlong_buffer=33"],
            "objective.overlong_buffer=33: must be at most",
            "rollout.max_new_tokens=32",
        ),
        (
            ["objective.correction=tis", "learner.old_logprobs=rollout"],
            "objective.correction=tis: learner.old_logprobs=rollout leaves nothing to correct",
            "set learner.old_logprobs=recompute",
        ),
        (
            ["objective.correction=mis", "cluster.device=cpu"],
            "objective.correction=mis: learner.old_logprobs=auto, which is rollout on a CPU, leaves nothing",
            "set learner.old_logprobs=recompute",
        ),
        (["publish.backend=nccl", "cluster.device=cpu"], "publish.backend=nccl: needs GPUs", "cluster.device=cpu"),
        (
            ["rollout.batch_order=finished", "max_staleness=1"],
            "max_staleness=1: must be at least 2 with rollout.batch_order=finished",
            "set rollout.batch_order=prompt",
        ),
        (
            ["rollout.batch_order=finished", "max_staleness=2", "publish.inflight=false"],
            "publish.inflight=false: waits at each publish",
            "must be true",
        ),
    ],
)
def test_sections_that_do_not_fit_each_other(settings: list[str], key: str, other: str) -> None:
    (line,) = lines_of(*settings)
    assert line.startswith(key)
    assert other in line


def test_all_mistakes_are_told_at_once() -> None:
    unread = ["gate=softsing", "foo"]
    refused = ["rollout.num_engines=0", "learner.zero=3"]
    hidden = ["gate.epsilon_low=0.1", "task.held_out=9"]  # may be right once the others are corrected
    assert [line.partition(":")[0] for line in lines_of(*unread, *hidden, *refused)] == [*unread, *refused]


def test_several_sections_that_do_not_fit_are_several_lines() -> None:
    assert len(lines_of("rollout.max_new_tokens=64", "task.held_out=10", "learner.num_workers=100")) == 3


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
