"""Loading of a configuration: turns `key=value` settings into a RunConfig.

In: the settings of a command line, or a plain tree. Out: a RunConfig, or a ConfigError with one line for each mistake.
Hydra composes the YAML groups beside this file, and the schema decides what is allowed. Nothing is started or written.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from yaml import YAMLError

from configs.mistakes import CHOICE_WITHOUT_SECTION, mistakes_of, proposal, section_types, shown
from configs.schema import RunConfig

CONFIG_DIR = Path(__file__).resolve().parent
HYDRA_VERSION_BASE = "1.3"


class ConfigError(ValueError):
    """A configuration that cannot run; `lines` has one line for each mistake."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(dict.fromkeys(lines))
        super().__init__("\n".join(self.lines))


def load_config(overrides: Sequence[str]) -> RunConfig:
    """Composes the shipped groups, then sets the values, in order; of two settings of one key the later counts.

    Raises ConfigError with every mistake. A setting that cannot be read is reported and left out while the others are
    checked.
    """
    lines: list[str] = []
    choices: dict[str, str] = {}  # choice of each group that is named, in Hydra's notation
    values: list[Override] = []
    left_out: set[str] = set()
    for text in overrides:
        try:
            setting = parse_setting(text)
            if setting.is_sweep_override():
                raise ConfigError(
                    [f"{shown(text)}: has several values; add -m to run one after the other, or quote it"]
                )
            if setting.key_or_group in config_groups():
                choices[setting.key_or_group] = _choice(setting)
            elif setting.is_delete():
                raise ConfigError([f"{shown(text)}: a value cannot be deleted; leave it out for its default"])
            else:
                values.append(setting)
        except ConfigError as error:
            lines.extend(error.lines)
            left_out.add(text.lstrip("+~").partition("=")[0])
    try:
        config = RunConfig.model_validate(_tree(tuple(choices.values()), values))
    except ConfigError as error:
        raise ConfigError([*lines, *error.lines]) from None
    except ValidationError as error:
        found = mistakes_of(error)
        if lines:  # a mistake that depends on a setting that was left out is not the user's
            found = [mistake for mistake in found if mistake.key and mistake.key.partition(".")[0] not in left_out]
        raise ConfigError([*lines, *(mistake.line for mistake in found)]) from None
    if lines:
        raise ConfigError(lines)
    return config


def validate(tree: Mapping[str, Any]) -> RunConfig:
    """The RunConfig of a plain nested mapping; ConfigError where the schema refuses it."""
    try:
        return RunConfig.model_validate(dict(tree))
    except ValidationError as error:
        raise ConfigError(mistake.line for mistake in mistakes_of(error)) from None


def dump_yaml(config: RunConfig) -> str:
    """YAML of every setting with its value; read_yaml gives the same configuration back."""
    return OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json")))


def read_yaml(text: str) -> RunConfig:
    """The configuration in a text that dump_yaml wrote; ConfigError where the text has none."""
    try:
        tree = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError([f"not readable as YAML: {' '.join(str(error).split())}"]) from None
    if not isinstance(tree, dict):
        raise ConfigError([f"{shown(text)}: must be a mapping of settings"])
    return validate({str(key): value for key, value in tree.items()})


@cache
def config_groups() -> dict[str, list[str]]:
    """The choices of each Hydra group: the YAML files beside this module, without partial ones (`_name`)."""
    groups: dict[str, list[str]] = {}
    for path in sorted(CONFIG_DIR.rglob("*/[!_]*.yaml")):
        group, *inside = path.relative_to(CONFIG_DIR).with_suffix("").parts
        groups.setdefault(group, []).append("/".join(inside))
    return groups


@cache
def gate_section(choice: str) -> type[BaseModel]:
    """The section of the schema for a choice of the group `gate`, such as SoftGateConfig for softsign and sapo."""
    path = CONFIG_DIR / "gate" / f"{choice}.yaml"
    name = OmegaConf.select(OmegaConf.load(path), "name")  # composing all groups would take half a second
    sections = section_types(RunConfig.model_fields["gate"].annotation)
    return next(section for section in sections if name in get_args(section.model_fields["name"].annotation))


def parse_setting(text: str) -> Override:
    """Parses one `key=value` in Hydra's grammar; ConfigError with one line where it is not one."""
    try:
        override: Override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        if "=" not in text:
            raise ConfigError([f"{shown(text)}: settings are given as key=value, see --help"]) from None
        line = f"{shown(text)}: cannot be read as key=value ({_first_line(error)})"
        raise ConfigError([f"""{line}; special characters need quotes inside quotes: 'key="value"'"""]) from None
    if override.is_hydra_override():
        raise ConfigError([f"{shown(text)}: Hydra's own settings have no effect here; leave it out"])
    if override.package is not None:
        raise ConfigError([f"{shown(text)}: groups have a fixed place here; leave out @{override.package}"])
    return override


def _choice(setting: Override) -> str:
    """The choice of a group in Hydra's notation; ConfigError where there is no such choice."""
    group, choices, value = setting.key_or_group, config_groups()[setting.key_or_group], setting.value()
    if group == CHOICE_WITHOUT_SECTION and value is None:
        return f"~{group}"
    if value in choices:
        return f"{group}={value}"
    hint = proposal(str(value), choices)
    raise ConfigError([f"{group}={shown(value)}: no such choice{hint or ';'} available: {', '.join(choices)}"])


def _tree(choices: tuple[str, ...], values: Sequence[Override]) -> dict[str, Any]:
    """The plain tree of chosen groups and values, with the schema's defaults so that `${learner.lr}` resolves."""
    key = ""
    try:
        composed = OmegaConf.merge(_schema_defaults(), _composed(choices))
        for value in values:
            key = value.key_or_group
            OmegaConf.update(composed, key, value.value(), merge=True, force_add=True)
        tree = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except HydraException as error:
        raise ConfigError([_first_line(error)]) from None
    except OmegaConfBaseException as error:
        raise ConfigError([f"{error.full_key or key}: {_first_line(error)}"]) from None
    assert isinstance(tree, dict), tree
    return {str(key): value for key, value in tree.items()}


@cache
def _composed(choices: tuple[str, ...]) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIR), version_base=HYDRA_VERSION_BASE):
        composed = compose("config", overrides=list(choices))
    OmegaConf.set_struct(composed, False)  # the schema refuses unknown keys, with the nearest known one
    return composed


@cache
def _schema_defaults() -> DictConfig:
    defaults = {name: field.default for name, field in RunConfig.model_fields.items() if not field.is_required()}
    plain = {name: value.model_dump(mode="json") for name, value in defaults.items() if isinstance(value, BaseModel)}
    return OmegaConf.create(defaults | plain)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].strip()
