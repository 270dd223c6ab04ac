"""The settings of a study with their help, and the runs that follow from them.

In: the arguments of `python -m orchestration.study`. Out: a StudyConfig, and one Arm with a checked RunConfig for each
gate and seed, or a ConfigError that names all mistakes of all arms. Starts nothing and reads no folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from configs.differences import typed
from configs.loading import ConfigError, config_groups, gate_section, load_config, parse_setting
from configs.mistakes import mistakes_of, proposal, shown
from configs.schema import RunConfig
from configs.section import Section

Kind = Literal["live", "replayed"]
PAPER_GATES = ("sigmoid", "erf", "arctan", "softsign", "clip")
# Settings of a run that the study itself gives to its arms, with what to write instead.
OWN_SETTINGS = {
    "gate": "the study trains several; write gates=[...]",
    "seed": "the study trains with several; write seeds=[...]",
    "run_dir": "each arm gets a folder of its own; write study_dir=...",
    "resume": "a study goes on where it stopped by itself; name its folder with study_dir=...",
    "resume_force": "a study keeps to its settings; name a new folder with study_dir=...",
    "rollout.record": "the study records and replays by itself; write arms=replayed or arms=both",
    "rollout.replay": "the study records and replays by itself; write arms=replayed or arms=both",
}

USAGE = """\
softgate study: trains every gate with every seed and reports which differences are larger than chance.

usage: python -m orchestration.study [key=value ...]

Every other setting goes to each run, as in `python orchestration/run.py` (see its --help); a setting of a gate, such as
gate.tau_pos=5, goes to the gates that have it. Arms of one seed see the same prompts with the same sampling seeds.

Settings of the study and their defaults:
"""

EXAMPLES = """
Examples:
  python -m orchestration.study experiment=separate_gates          5 gates x 3 seeds on the arithmetic task
  python -m orchestration.study gates=[softsign,clip] seeds=[0,1,2,3,4] experiment=separate_gates parallel=2
  python -m orchestration.study experiment=paper launcher=jobs parallel=2 study_dir=/shared/runs/paper
  python -m orchestration.study ... study_dir=runs/study-001       continue, keep what is finished
  python -m orchestration.report runs/study-001                    write the report again

study_dir then holds report.html, report.md, curves.png, iterations.csv, pairs.csv and one run folder an arm.

Exit status: 0 done, 1 an arm failed, 2 mistakes in the configuration (one line each) and nothing started;
130, 143, 129 ended by Ctrl-C, SIGTERM, SIGHUP, each run with a checkpoint.\
"""


class StudyConfig(Section):
    """Settings of a study: a grid of gates and seeds, and how to run it. The descriptions are those of --help."""

    gates: tuple[str, ...] = Field(
        default=PAPER_GATES,
        description="choices of the group gate, as in gates=[softsign,clip]; the first gate's run is the recorded one",
    )
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), description="seeds of the runs; gates are compared seed by seed")
    study_dir: str = Field(  # auto: runs/study-NNN, the next free number
        default="auto",
        min_length=1,
        description="one folder for all arms and the report; name an existing one to continue it or to add arms",
    )
    arms: Literal["live", "replayed", "both"] = Field(
        default="live",
        description="live, replayed (all gates train on the groups recorded from the first gate's run) or both",
    )
    launcher: Literal["local", "jobs"] = Field(
        default="local", description="local (child processes of this command) or jobs (Ray jobs on a cluster that runs)"
    )
    jobs_address: str = Field(
        default="auto",
        min_length=1,
        description="job server, http://host:8265; auto is what RAY_API_SERVER_ADDRESS or RAY_ADDRESS names",
    )
    parallel: int = Field(default=1, ge=1, description="number of arms at once")
    dry_run: bool = Field(default=False, description="prints the commands of all arms and starts nothing")

    @field_validator("gates", "seeds", mode="before")
    @classmethod
    def _is_a_list(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, list | tuple):
            example = f"{info.field_name}=[{shown(value)}]"
            raise ValueError(f"{info.field_name}={shown(value)}: must be a list in brackets, as in {example}")
        if not value:
            raise ValueError(f"{info.field_name}=[]: names nothing to train; name one at least or leave it out")
        return tuple(value)

    @model_validator(mode="after")
    def _grid_is_one(self) -> "StudyConfig":
        known = config_groups()["gate"]
        wrong = [
            f"gates: {gate}: no such choice{proposal(gate, known)} available: {', '.join(known)}"
            for gate in self.gates
            if gate not in known
        ]
        wrong += [
            f"{name}=[{','.join(map(str, values))}]: {value} is named twice; name it once"
            for name, values in (("gates", self.gates), ("seeds", self.seeds))
            for value in sorted({value for value in values if values.count(value) > 1}, key=str)
        ]
        if wrong:
            raise ValueError("\n".join(wrong))
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One run of the study."""

    name: str  # name of its folder
    gate: str  # choice of the group gate, as named in the command
    seed: int
    kind: Kind
    records: Path | None  # folder into which it records its groups
    replays: Path | None  # folder whose groups it trains on
    overrides: tuple[str, ...]  # arguments of `python orchestration/run.py` without run_dir and resume
    config: RunConfig  # configuration that the overrides give


def help_text() -> str:
    """The text of --help, with every setting, its default and what it means."""
    lines = []
    for name, field in StudyConfig.model_fields.items():
        value = field.default
        shown_value = f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else typed(value)
        lines.append(f"  {name}={shown_value}\n      {field.description}")
    return USAGE + "\n".join(lines) + "\n" + EXAMPLES


def split_settings(arguments: Sequence[str]) -> tuple[StudyConfig, list[str]]:
    """The study's settings, and the settings of every run.

    ConfigError for settings that the study gives itself, and for those that cannot be read.
    """
    own: dict[str, Any] = {}
    rest: list[str] = []
    lines: list[str] = []
    for text in arguments:
        try:
            setting = parse_setting(text)
        except ConfigError as error:
            lines.extend(error.lines)
            continue
        key = setting.key_or_group
        if key in OWN_SETTINGS:
            lines.append(f"{shown(text)}: {OWN_SETTINGS[key]}")
        elif key not in StudyConfig.model_fields:
            rest.append(text)
        elif setting.is_sweep_override() or setting.is_delete():
            lines.append(f"{shown(text)}: must be one value or a list in brackets, as in gates=[softsign,clip]")
        else:
            own[key] = _plain(setting.value())
    try:
        study = StudyConfig.model_validate(own)
    except ValidationError as error:
        lines.extend(mistake.line for mistake in mistakes_of(error, root=StudyConfig))
    if lines:
        raise ConfigError(lines)
    return study, rest


def plan_arms(study: StudyConfig, settings: Sequence[str], *, study_dir: Path) -> tuple[Arm, ...]:
    """The arms in the order in which they start: seed by seed, so that a study that stops early has complete seeds.

    A setting of a gate (gate.tau_pos=...) goes to the gates that have it; at least one must have it.
    """
    lines = [
        f"{shown(text)}: none of the gates {', '.join(study.gates)} has this setting"
        for text in settings
        if not any(_applies(text, gate) for gate in study.gates)
    ]
    arms: list[Arm] = []
    for seed in study.seeds:
        for gate in study.gates:
            overrides = [f"gate={gate}", f"seed={seed}", *(text for text in settings if _applies(text, gate))]
            try:
                arms += _arms_of(study, gate, seed, overrides, recording=study_dir / "recordings" / f"seed{seed}")
            except ConfigError as error:
                lines.extend(error.lines)
    if lines:
        raise ConfigError(lines)
    return tuple(sorted(arms, key=lambda arm: (study.seeds.index(arm.seed), arm.kind == "replayed")))


def _arms_of(study: StudyConfig, gate: str, seed: int, overrides: list[str], *, recording: Path) -> list[Arm]:
    found = []
    is_recorded = study.arms != "live" and gate == study.gates[0]
    if study.arms != "replayed" or is_recorded:
        found.append(_arm(gate, seed, overrides, records=recording if is_recorded else None))
    if study.arms != "live":
        found.append(_arm(gate, seed, overrides, replays=recording))
    return found


def _arm(
    gate: str, seed: int, overrides: list[str], *, records: Path | None = None, replays: Path | None = None
) -> Arm:
    if records is not None:
        overrides = [*overrides, f"rollout.record='{records}'"]
    if replays is not None:
        overrides = [*overrides, "eval.every=0", f"rollout.replay='{replays}'"]  # no engine that could evaluate
    return Arm(
        name=f"{gate}-seed{seed}{'' if replays is None else '-replayed'}",
        gate=gate,
        seed=seed,
        kind="live" if replays is None else "replayed",
        records=records,
        replays=replays,
        overrides=tuple(overrides),
        config=load_config(overrides),
    )


def _applies(text: str, gate: str) -> bool:
    """Whether a setting applies to the gate; those outside the section gate always do."""
    section, _, name = parse_setting(text).key_or_group.partition(".")
    return section != "gate" or name.partition(".")[0] in gate_section(gate).model_fields


def _plain(value: Any) -> Any:
    """The value with Hydra's quoted strings as plain strings."""
    return [_plain(item) for item in value] if isinstance(value, list) else getattr(value, "text", value)
