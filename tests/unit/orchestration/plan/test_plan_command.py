"""The planner's command line: its own words, a run's settings, and mistakes in one line each."""

import pytest

from configs.loading import ConfigError
from configs.schema import RunConfig
from orchestration.plan.__main__ import DEFAULT_GPUS, PlanWords, read_plan_command


def request(*arguments: str) -> tuple[RunConfig, PlanWords]:
    found = read_plan_command(arguments)
    assert found is not None
    return found


def test_a_run_and_nothing_else_is_planned_for_the_usual_numbers_of_devices() -> None:
    config, found = request("rollout.num_engines=2")
    assert config.rollout.num_engines == 2
    assert (found.gpus, found.calibrate, found.hardware, found.calibration) == (DEFAULT_GPUS, False, None, None)
    assert (found.lengths, found.prompt_length) == (None, None)


def test_own_words_are_read() -> None:
    _, found = request(
        "--calibrate", "gpus=16,8,8", "calibration=a/b.json", "hardware=h100", "lengths=[7,3]", "prompt_length=5"
    )
    assert found.calibrate
    assert found.gpus == (16, 8, 8)
    assert (found.calibration, found.hardware) == ("a/b.json", "h100")
    assert (found.lengths, found.prompt_length) == ((7, 3), 5)


def test_help_is_asked_for_whatever_else_is() -> None:
    assert read_plan_command(["gpus=x", "-h"]) is None


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["gpus=1"], ["gpus[0]=1: must be greater than or equal to 2"]),
        (["gpus=8,x"], ["gpus[1]=x: must be a valid integer"]),
        (["lengths=[]"], ["lengths=[]: must name at least one number"]),
        (["prompt_length=1,2"], ["prompt_length=1,2: must be a valid integer"]),
        (["calibration=3"], ["calibration=3: must be a valid string"]),
        (["--measure"], ["--measure: no such flag; there are --calibrate, -h, --help"]),
        (["learner.lora.rank=4"], ["learner.lora.rank=4: adapters cannot be planned; leave it out to plan"]),
        (
            ["gpus=0", "rollout.num_engine=2"],
            ["gpus[0]=0: must be greater than or equal to 2", "rollout.num_engine=2: no such setting"],
        ),
    ],
)
def test_each_mistake_has_its_line(arguments: list[str], lines: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_plan_command(arguments)
    assert len(caught.value.lines) == len(lines)
    for found, expected in zip(caught.value.lines, lines, strict=True):
        assert found.startswith(expected)
