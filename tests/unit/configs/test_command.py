"""Flags, sweeps and the help text."""

import pytest

from configs.command import expand, help_text, read_command
from configs.loading import ConfigError, config_groups


def test_a_plain_command_is_one_run() -> None:
    configs = read_command(["gate=erf", "seed=3"])
    assert configs is not None
    assert [(config.gate.name, config.seed) for config in configs] == [("erf", 3)]


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_a_sweep_is_every_combination_the_last_fastest(flag: str) -> None:
    configs = read_command([flag, "gate=softsign,clip", "seed=0,1", "num_iterations=5"])
    assert [(config.gate.name, config.seed, config.num_iterations) for config in configs or ()] == [
        ("softsign", 0, 5),
        ("softsign", 1, 5),
        ("clip", 0, 5),
        ("clip", 1, 5),
    ]


def test_sweeps_in_hydras_grammar() -> None:
    assert expand(["seed=range(0,3)"]) == [["seed=0"], ["seed=1"], ["seed=2"]]
    assert expand(["gate=glob(s*,exclude=sapo)"]) == [["gate=sigmoid"], ["gate=softsign"]]
    assert expand(["learner.betas=[0.9,0.99],[0.8,0.9]"]) == [["learner.betas=[0.9,0.99]"], ["learner.betas=[0.8,0.9]"]]
    assert expand([]) == [[]]


def test_all_runs_of_a_sweep_are_checked_before_any() -> None:
    with pytest.raises(ConfigError) as caught:
        read_command(["-m", "gate=softsign,clip", "gate.tau_pos=5", "seed=0,-1"])
    assert [line.partition(":")[0] for line in caught.value.lines] == ["seed=-1", "gate.tau_pos=5"]


def test_runs_of_a_sweep_do_not_share_a_folder() -> None:
    configs = read_command(["-m", "seed=0,1", "run_dir='runs/${seed}'"])
    assert [config.run_dir for config in configs or ()] == ["runs/0", "runs/1"]


def test_an_unknown_flag_is_told_beside_other_mistakes() -> None:
    with pytest.raises(ConfigError) as caught:
        read_command(["--cfg", "seed=-1"])
    assert [line.partition(":")[0] for line in caught.value.lines] == ["--cfg", "seed=-1"]


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_wins_over_everything_else(flag: str) -> None:
    assert read_command(["seed=-1", flag]) is None


def test_help_names_groups_settings_and_examples() -> None:
    text = help_text()
    for group, choices in config_groups().items():
        line = next(line for line in text.splitlines() if line.startswith(f"  {group}="))
        assert all(choice in line for choice in choices)
    for setting in ("gate.tau_pos=10.0", "gate.epsilon_low=0.2", "learner.betas=[0.9, 0.999]", "max_staleness=0"):
        assert f"  {setting}\n" in text
    assert "python orchestration/run.py -m gate=softsign,clip" in text
    assert "Exit status" in text


def test_the_examples_of_the_help_load() -> None:
    lines = [line for line in help_text().splitlines() if line.startswith("  python")]
    commands = [line.split("run.py", 1)[1].split("  ")[0] for line in lines]
    assert len(commands) > 4
    for arguments in commands:
        assert read_command(arguments.replace("<name>", "a").split())
