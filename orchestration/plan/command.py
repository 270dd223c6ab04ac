"""What the words after `python -m orchestration.plan` mean.

In: the arguments. Out: a PlanCommand with its checked RunConfig, or a ConfigError before anything has started. Settings
have Hydra's grammar and the names of a run's configuration; the planner's own words are listed in its usage.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from configs.command import HELP_FLAGS
from configs.loading import ConfigError, load_config, parse_setting
from configs.mistakes import shown
from configs.schema import RunConfig

CALIBRATE_FLAG = "--calibrate"
OWN_WORDS = ("gpus", "hardware", "calibration", "lengths", "prompt_length")
# Of a run, and without effect on a plan.
OF_A_RUN = ("run_dir", "resume", "dry_run", "rollout.record", "rollout.replay")
DEFAULT_GPUS = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

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
  prompt_length=100  tokens of a prompt; left out, that of the calibration, else the longest that the run admits
  -h, --help         this text

Every setting of a run can be given, as experiment=paper, rollout.num_engines=2 or max_staleness=1;
`python orchestration/run.py --help` lists them.

Exit status: 0 done, 1 failed, 2 mistakes in the configuration (one line each) and nothing started, 130 interrupted.

Examples:
  python -m orchestration.plan --calibrate
  python -m orchestration.plan rollout.prompts_per_iteration=64 max_staleness=1 gpus=2,4
  python -m orchestration.plan experiment=paper hardware=h100 lengths=[120,200,350,512] prompt_length=150
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRequest:
    """One plan: the run, and what to predict it from."""

    config: RunConfig
    calibrate: bool
    num_devices: tuple[int, ...]  # ascending
    hardware: str | None  # a preset or a file
    calibration: str | None  # a file; None: where it is kept
    lengths: tuple[int, ...] | None  # of completions, tokens
    prompt_length: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanCommand:
    """What was asked for: exactly one of the two."""

    wants_help: bool = False
    request: PlanRequest | None = None


def read_plan_command(arguments: Sequence[str]) -> PlanCommand:
    """Checks everything that was asked for; ConfigError names all mistakes."""
    flags = [argument for argument in arguments if argument.startswith("-")]
    if any(flag in HELP_FLAGS for flag in flags):
        return PlanCommand(wants_help=True)
    known = (CALIBRATE_FLAG, *HELP_FLAGS)
    lines = [f"{flag}: no such flag; there are {', '.join(known)}" for flag in flags if flag not in known]
    words: dict[str, str] = {}
    settings: list[str] = []
    for text in arguments:
        name, _, value = text.partition("=")
        if name in OWN_WORDS:
            words[name] = value
        elif name in OF_A_RUN:
            lines.append(f"{shown(text)}: has no effect on a plan; leave it out")
        elif not text.startswith("-"):
            settings.append(text)
    read: dict[str, Any] = {}
    for name, value in words.items():
        try:
            read[name] = _read(name, value)
        except ConfigError as error:
            lines.extend(error.lines)
    if CALIBRATE_FLAG in flags and "hardware" in words and "calibration" not in words:
        lines.append(
            f"hardware={words['hardware']}: with {CALIBRATE_FLAG} this machine is measured, not that one; name "
            f"calibration=FILE to take memory and wires from hardware"
        )
    try:
        config = load_config(settings)
    except ConfigError as error:
        raise ConfigError([*lines, *error.lines]) from None
    if lines:
        raise ConfigError(lines)
    return PlanCommand(
        request=PlanRequest(
            config=config,
            calibrate=CALIBRATE_FLAG in flags,
            num_devices=read.get("gpus", DEFAULT_GPUS),
            hardware=read.get("hardware"),
            calibration=read.get("calibration"),
            lengths=read.get("lengths"),
            prompt_length=read.get("prompt_length"),
        )
    )


def _read(name: str, text: str) -> Any:
    """The value of one of the planner's own words."""
    match name:
        case "gpus":
            return tuple(sorted(set(_whole_numbers(name, text, least=2))))
        case "lengths":
            return tuple(_whole_numbers(name, text, least=1))
        case "prompt_length":
            numbers = _whole_numbers(name, text, least=1)
            if len(numbers) != 1:
                raise ConfigError([f"prompt_length={shown(text)}: must be one whole number from 1"])
            return numbers[0]
    value = parse_setting(f"{name}={text}").value()
    value = getattr(value, "text", value)
    if not isinstance(value, str) or not value:
        example = "hardware=h100" if name == "hardware" else "calibration=mine.json"
        raise ConfigError([f"{name}={shown(text)}: must be a name or a file, as {example}"])
    return value


def _whole_numbers(name: str, text: str, *, least: int) -> list[int]:
    """Numbers with commas between them, in brackets or not."""
    parts = text.strip().removeprefix("[").removesuffix("]").split(",")
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        raise ConfigError([f"{name}={shown(text)}: must be whole numbers from {least}, as {name}={least},{least + 1}"])
    return numbers
