"""The command: `python -m orchestration.plan [settings]` predicts time, memory and scaling of a run.

In: the arguments. Out: an exit status, explained by --help. No heavy library is imported before all settings are
accepted, and none at all if nothing is measured.
"""

import sys

from orchestration.terminal.leaving import leave_at_once

if __name__ == "__main__":
    leave_at_once()  # the imports below take most of a second

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from rich.console import Console

from configs.command import HELP_FLAGS
from configs.loading import ConfigError, load_config, parse_setting
from configs.mistakes import mistakes_of
from configs.schema import RunConfig
from configs.section import Section
from orchestration.terminal.exit_status import command, leave, print_answer
from orchestration.terminal.stopping import Stopping

FLAGS = ("--calibrate", *HELP_FLAGS)
LISTS = ("gpus", "lengths")  # own words that take several numbers, in brackets or not
DEFAULT_GPUS = tuple(2**power for power in range(1, 11))

USAGE = """\
softgate: predicts time and memory of a run, and how it scales, without running it.

usage: python -m orchestration.plan [--calibrate] [gpus=8,16] [hardware=NAME] [calibration=FILE] [key=value ...]

  --calibrate        measure this machine with the model of the run first, which takes some minutes; the result is
                     kept for this model and device, or written to calibration=FILE
  gpus=8,16          numbers of devices to split between engines and learner ranks (2 to 1024); on a machine without
                     GPUs a device is an engine's or a rank's cores
  hardware=NAME      count times from a data sheet (a100, h100) instead of a calibration; with calibration=FILE or
                     --calibrate only memory and wires are taken from it
  calibration=FILE   the calibration to use or to write (the one kept for this model and device)
  lengths=[40,500]   sample of completion lengths, tokens (of the calibration, else rollout.max_new_tokens for all)
  prompt_length=100  tokens of a prompt (of the calibration, else what completions leave of model.max_model_len)
  -h, --help         this text

Every setting of a run can be given, as experiment=paper or max_staleness=1; `python orchestration/run.py --help` lists
them. Exit status: 0 done, 1 failed, 2 mistakes in the configuration (one line each); 130, 143, 129 ended by
Ctrl-C, SIGTERM, SIGHUP.

Example: python -m orchestration.plan experiment=paper hardware=h100 lengths=[120,200,350,512] prompt_length=150
"""


class PlanWords(Section):
    """The planner's own words, which are no settings of a run."""

    calibrate: bool = False
    gpus: tuple[Annotated[int, Field(ge=2)], ...] = Field(default=DEFAULT_GPUS, strict=False)
    hardware: str | None = Field(default=None, min_length=1)  # name of a preset
    calibration: str | None = Field(default=None, min_length=1)  # a file; None: the kept one
    lengths: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(default=None, strict=False)  # tokens
    prompt_length: int | None = Field(default=None, ge=1)  # tokens

    @field_validator("gpus", "lengths")
    @classmethod
    def _names_a_number(cls, numbers: tuple[int, ...] | None, info: ValidationInfo) -> tuple[int, ...] | None:
        if numbers == ():
            raise ValueError(f"{info.field_name}=[]: must name at least one number")
        return numbers


def read_plan_command(arguments: Sequence[str]) -> tuple[RunConfig, PlanWords] | None:
    """The checked run and the planner's own words; None if help is wanted. ConfigError names all mistakes."""
    if any(argument in HELP_FLAGS for argument in arguments):
        return None
    words: dict[str, Any] = {}
    lines: list[str] = []
    settings: list[str] = []
    for text in arguments:
        name, _, value = text.partition("=")
        if text == "--calibrate":
            words["calibrate"] = True
        elif text.startswith("-"):
            lines.append(f"{text}: no such flag; there are {', '.join(FLAGS)}")
        elif name in PlanWords.model_fields and name != "calibrate":
            in_brackets = f"{name}=[{value}]" if name in LISTS and not value.startswith("[") else text
            try:
                setting = parse_setting(in_brackets)
                words[name] = value if setting.is_sweep_override() else setting.value()
            except ConfigError as error:
                lines.extend(error.lines)
        else:
            settings.append(text)
    try:
        checked = PlanWords(**words)
    except ValidationError as error:
        lines.extend(mistake.line for mistake in mistakes_of(error, root=PlanWords))
    try:
        config = load_config(settings)
        if config.learner.lora.is_on:
            remedy = "leave it out to plan the run that trains all weights"
            lines.append(f"learner.lora.rank={config.learner.lora.rank}: adapters cannot be planned; {remedy}")
    except ConfigError as error:
        lines.extend(error.lines)
    if lines:
        raise ConfigError(lines)
    return config, checked


def make_plan(config: RunConfig, words: PlanWords) -> None:
    """Prints the plan; measures first if that was asked for. ConfigError if there is nothing to predict from."""
    from orchestration.plan.session import basis_of, print_plan

    console, basis = Console(), words.model_dump(include={"hardware", "calibration", "lengths", "prompt_length"})
    if words.calibrate:
        from orchestration.plan.measurements import calibrate

        basis["calibration"] = str(calibrate(config, words.calibration, console))
    print_plan(*basis_of(config, **basis), numbers=sorted(set(words.gpus)), console=console)


@command
def main(arguments: list[str]) -> int:
    request = read_plan_command(arguments)
    if request is None:
        print_answer(USAGE)
    else:
        with Stopping():
            make_plan(*request)
    return 0


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
