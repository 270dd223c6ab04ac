"""The command line of `python orchestration/run.py`, read and checked.

In: the arguments. Out: one checked RunConfig for each run, or a ConfigError before anything has started. Uses Hydra's
grammar for settings and sweeps, but neither its launcher nor its log and output folders.
"""

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from hydra.core.override_parser.types import Glob
from pydantic import BaseModel

from configs.loading import ConfigError, config_groups, load_config, parse_setting
from configs.mistakes import keys_inside, section_types, shown
from configs.schema import RunConfig

HELP_FLAGS = ("-h", "--help")
SWEEP_FLAGS = ("-m", "--multirun")
AUTO_RUN_DIR = "auto"
MUST_BE_GIVEN = "..."
PLAIN = re.compile(r"[\w./-]+")  # paths that Hydra's grammar reads without quotes

USAGE = """\
softgate: trains a language model on the gated objective.

usage: python orchestration/run.py [-m] [key=value ...]

  -m, --multirun  run every combination of settings that have several values, one run after the other
  -h, --help      this text

Exit status: 0 done, 1 failed, 2 mistakes in the configuration (one line each) and nothing started; ended by a signal:
130 Ctrl-C, 143 SIGTERM, 129 SIGHUP, each after a checkpoint where checkpoint.grace_s suffices for it.
"""

EXAMPLES = """\
Examples:
  python orchestration/run.py                                     the arithmetic task on the embedded model
  python orchestration/run.py gate=clip gate.epsilon_low=0.1
  python orchestration/run.py gate=softsign gate.tau_pos=10 rollout.num_engines=2 learner.num_workers=2
  python orchestration/run.py dry_run=true                        print what would run and where; start nothing
  python orchestration/run.py resume=true run_dir=runs/<name>     continue a run
  python orchestration/run.py -m gate=softsign,clip seed=0,1      four runs
  ray job submit --working-dir . -- python orchestration/run.py cluster=default
"""


def wants_help(arguments: Sequence[str]) -> bool:
    return any(argument in HELP_FLAGS for argument in arguments)


def unknown_flags(arguments: Sequence[str], *known: str) -> list[str]:
    """A line for each flag that a command does not have; known: its flags beside those of the help."""
    allowed = (*known, *HELP_FLAGS)
    flags = (argument for argument in arguments if argument.startswith("-") and argument not in allowed)
    return [f"{flag}: no such flag; there are {', '.join(allowed)}" for flag in flags]


def read_command(arguments: Sequence[str]) -> tuple[RunConfig, ...] | None:
    """The runs that the arguments ask for, in order; None where they ask for help.

    ConfigError names all mistakes of all runs.
    """
    if wants_help(arguments):
        return None
    lines = unknown_flags(arguments, *SWEEP_FLAGS)
    configs = []
    for combination in settings_of_runs(arguments):
        try:
            configs.append(load_config(combination))
        except ConfigError as error:
            lines.extend(error.lines)
    if lines:
        raise ConfigError(lines)
    _refuse_shared_folders(configs)
    return tuple(configs)


def settings_of_runs(arguments: Sequence[str]) -> list[list[str]]:
    """The settings of each run that the arguments ask for, one value each, in the order of read_command()."""
    settings = [argument for argument in arguments if not argument.startswith("-")]
    return expand(settings) if len(settings) < len(arguments) else [settings]


def settings_to_go_on(settings: Sequence[str], *, run_dir: Path, resume: bool) -> list[str]:
    """The settings of a run that continues, or repeats, the run with these settings in its folder."""
    kept = [text for text in settings if text.partition("=")[0] not in ("run_dir", "resume")]
    folder = str(run_dir)
    if not PLAIN.fullmatch(folder):
        folder = "'" + folder.replace("'", "\\'") + "'"
    return [*kept, f"run_dir={folder}", *(["resume=true"] if resume else [])]


def expand(settings: Sequence[str]) -> list[list[str]]:
    """All combinations of the values of a sweep; the last setting varies fastest."""
    return [list(combination) for combination in product(*(_values(setting) for setting in settings))]


def help_text() -> str:
    """The text of --help: usage, groups with their choices, every setting with its default, examples."""
    groups = [f"  {group + '=':<12}{' | '.join(choices)}" for group, choices in config_groups().items()]
    return "\n".join(
        [
            USAGE,
            "Groups (each choice is a file configs/<group>/<choice>.yaml; experiment=null for none):",
            *groups,
            "",
            "Settings and their defaults (explained in configs/schema.py; dry_run=true prints those of a run; "
            f"{MUST_BE_GIVEN} has no default and must be given; <name> is a name that you choose):",
            *dict.fromkeys(_defaults(RunConfig, prefix="")),  # variants of a section share settings
            "",
            EXAMPLES,
        ]
    )


def _values(setting: str) -> list[str]:
    """The setting once for each of its values; load_config reports one that cannot be read."""
    try:
        override = parse_setting(setting)
    except ConfigError:
        return [setting]
    if override.is_discrete_sweep():
        value = override.value()
        choices = config_groups().get(override.key_or_group, [])
        values = value.filter(choices) if isinstance(value, Glob) else override.sweep_string_iterator()
        return [f"{override.get_key_element()}={value}" for value in values] or [setting]
    return [setting]


def _refuse_shared_folders(configs: Sequence[RunConfig]) -> None:
    folders = {
        "run_dir": [config.run_dir for config in configs if config.run_dir != AUTO_RUN_DIR],
        "rollout.record": [config.rollout.record for config in configs if config.rollout.record is not None],
    }
    rule = "several runs of the sweep would share it; add what differs between them"
    lines = [
        f"{name}={shown(folder)}: {rule}, as in {name}='x-${{seed}}'{', or leave it at auto' * (name == 'run_dir')}"
        for name, named in folders.items()
        for folder in sorted({folder for folder in named if named.count(folder) > 1})
    ]
    if lines:
        raise ConfigError(lines)


def _defaults(section: type[BaseModel], *, prefix: str) -> list[str]:
    lines = []
    for name, field in section.model_fields.items():
        members = section_types(field.annotation)
        for member in members:
            lines.extend(_defaults(member, prefix=keys_inside(f"{prefix}{name}", field.annotation)))
        if not members and name != "name":  # chosen with the group: gate=..., task=...
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            lines.append(f"  {prefix}{name}={MUST_BE_GIVEN if field.is_required() else shown(default)}")
    return lines
