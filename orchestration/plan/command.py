"""What the words after `python -m orchestration.plan` mean.

In: the arguments. Out: a PlanRequest with its checked RunConfig, or a ConfigError before anything has started. Settings
have Hydra's grammar and the names of a run's configuration; the planner's own words are listed in its usage.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from configs.command import HELP_FLAGS
from configs.loading import ConfigError, load_config, parse_setting
from configs.mistakes import mistakes_of, shown
from configs.schema import RunConfig
from configs.section import Section

CALIBRATE_FLAG = "--calibrate"
LISTS = ("gpus", "lengths")  # own words that take several numbers, in brackets or not
DEFAULT_GPUS = tuple(2**power for power in range(1, 11))
OWN_WORDS = (*LISTS, "hardware", "calibration", "prompt_length")
OF_A_RUN = ("run_dir", "resume", "dry_run", "rollout.record", "rollout.replay")  # without effect on a plan

USAGE = """\
softgate: predicts time and memory of a run, and how it scales, without running it.

usage: python -m orchestration.plan [--calibrate] [gpus=8,16] [hardware=NAME] [calibration=FILE] [key=value ...]

  --calibrate        measure this machine with the model of the run first, which takes some minutes; the result is
                     kept for this model and device, or written to calibration=FILE
  gpus=8,16          numbers of devices to split between engines and learner ranks; left out, 2 to 1024. On a machine
                     without GPUs a device is an engine's or a rank's cores
  hardware=NAME      count times from a data sheet (h100, a100, or a YAML file with the same keys) instead of a
                     calibration; with calibration=FILE only memory and wires are taken from it
  calibration=FILE   the calibration to use or to write; left out, the one kept for this model and device
  lengths=[40,500]   a sample of completion lengths, tokens; left out, those of the calibration, else
                     rollout.max_new_tokens for all
  prompt_length=100  tokens of a prompt; left out, that of the calibration, else all that
                     model.max_model_len leaves beside rollout.max_new_tokens
  -h, --help         this text

Every setting of a run can be given, as experiment=paper, rollout.num_engines=2 or max_staleness=1;
`python orchestration/run.py --help` lists them.

Exit status: 0 done, 1 failed, 2 mistakes in the configuration (one line each) and nothing started, 130 interrupted.

Examples:
  python -m orchestration.plan --calibrate
  python -m orchestration.plan rollout.prompts_per_iteration=64 max_staleness=1 gpus=2,4
  python -m orchestration.plan experiment=paper hardware=h100 lengths=[120,200,350,512] prompt_length=150
"""


class PlanRequest(Section):
    """One plan: the run, and what to predict it from."""

    config: RunConfig
    calibrate: bool = False
    gpus: tuple[Annotated[int, Field(ge=2)], ...] = Field(default=DEFAULT_GPUS, strict=False)  # ascending
    hardware: str | None = Field(default=None, min_length=1)  # a preset or a file
    calibration: str | None = Field(default=None, min_length=1)  # a file; None: where it is kept
    lengths: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(default=None, strict=False)  # completions, tokens
    prompt_length: int | None = Field(default=None, ge=1)  # tokens

    @field_validator("gpus", "lengths")
    @classmethod
    def _names_a_number(cls, numbers: tuple[int, ...] | None, info: ValidationInfo) -> tuple[int, ...] | None:
        if numbers == ():
            raise ValueError(f"{info.field_name}=[]: must name at least one number")
        return tuple(sorted(set(numbers))) if numbers and info.field_name == "gpus" else numbers


def read_plan_command(arguments: Sequence[str]) -> PlanRequest | None:
    """Checks everything that was asked for; None where it is help. ConfigError names all mistakes."""
    flags = [argument for argument in arguments if argument.startswith("-")]
    if any(flag in HELP_FLAGS for flag in flags):
        return None
    known = (CALIBRATE_FLAG, *HELP_FLAGS)
    lines = [f"{flag}: no such flag; there are {', '.join(known)}" for flag in flags if flag not in known]
    words: dict[str, Any] = {"calibrate": CALIBRATE_FLAG in flags}
    settings: list[str] = []
    for text in arguments:
        name, _, value = text.partition("=")
        if name in OF_A_RUN:
            lines.append(f"{shown(text)}: has no effect on a plan; leave it out")
        elif name in OWN_WORDS:
            in_brackets = f"{name}=[{value}]" if name in LISTS and not value.startswith("[") else text
            try:
                setting = parse_setting(in_brackets)
                words[name] = value if setting.is_sweep_override() else setting.value()
            except ConfigError as error:
                lines.extend(error.lines)
        elif not text.startswith("-"):
            settings.append(text)
    if words["calibrate"] and "hardware" in words and "calibration" not in words:
        lines.append(
            f"hardware={words['hardware']}: with {CALIBRATE_FLAG} this machine is measured, not that one; name "
            f"calibration=FILE to take memory and wires from hardware"
        )
    request, config = None, load_config([])
    mistakes_in_settings: tuple[str, ...] = ()
    try:
        config = load_config(settings)
    except ConfigError as error:
        mistakes_in_settings = error.lines
    try:
        request = PlanRequest(config=config, **words)
    except ValidationError as error:
        lines.extend(mistake.line for mistake in mistakes_of(error, root=PlanRequest))
    if lines or mistakes_in_settings:
        raise ConfigError([*lines, *mistakes_in_settings])
    return request
