"""The command line of `python -m orchestration.evaluate`, read and checked.

In: the arguments. Out: an evaluation with its checked RunConfig, or two folders to compare, or a ConfigError before
anything has started. Settings have Hydra's grammar and the names of a run's configuration; the usual ones also have
short names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from configs.command import unknown_flags, wants_help
from configs.evaluation import EvalConfig
from configs.loading import ConfigError, config_groups, load_config, parse_setting
from configs.mistakes import proposal, shown
from configs.schema import RunConfig

SHORT_NAMES = ("samples", "temperature", "top_p", "max_new_tokens", "num_prompts", "seed")  # names of settings of eval
OWN_WORDS = ("sets", "out", "compare")
# Settings of a run that would mislead if they were accepted; an evaluation counts the rewards format and answer.
OF_A_RUN = ("run_dir", "resume", "resume_force", "dry_run", "rollout.record", "rollout.replay", "reward")
AUTO_OUT = "auto"
# Defaults of an evaluation; settings on the command line override them. Nothing is trained, so the length of the
# learner's rows must not limit the context.
ALWAYS = ("eval.num_prompts=all", "learner.max_tokens_per_micro_batch=${model.max_model_len}")
DATA_TASK = ("experiment=null", "task=gsm8k_deepmath", "rollout=paper")

USAGE = """\
softgate: evaluates a model on problems with known answers, on vLLM engines.

usage: python -m orchestration.evaluate model=PATH [sets=[...]] [samples=8 temperature=0.7] [out=DIR] [key=value ...]
       python -m orchestration.evaluate compare=[DIR_A,DIR_B]

  model=PATH         a Hugging Face folder (as runs/<name>/model), a hub name, or embedded
  sets=[a,b]         evaluation sets of the task; default: all of them
  out=DIR            folder of rows and summary; default: evals/<model>-<settings>. Rows in it are kept: the same
                     command continues an interrupted evaluation
  compare=[A,B]      paired bootstrap of the difference A - B, set by set, of two evaluations of the same problems
  -h, --help         this text

Short names, with their defaults here (auto: rollout.max_new_tokens):
{short_names}

Every other setting of a run can be given too, such as task=arithmetic, rollout.num_engines=2, cluster.address=auto;
`python orchestration/run.py --help` lists them. Without task= the command takes task=gsm8k_deepmath with rollout=paper
and model.max_model_len=2048; for model=embedded it takes task=arithmetic.

Exit status: 0 done, 1 failed, 2 mistakes in the configuration (one line each) and nothing started; 130, 143, 129 ended
by Ctrl-C, SIGTERM, SIGHUP.

Examples:
  python -m orchestration.evaluate model=Qwen/Qwen2.5-7B-Instruct sets=[gsm8k,math500] samples=8 temperature=0.7
  python -m orchestration.evaluate model=runs/<name>/model sets=[aime24,aime25] samples=32 temperature=1 top_p=0.95
  python -m orchestration.evaluate model=embedded samples=4 temperature=1
  python -m orchestration.evaluate compare=[evals/<first>,evals/<second>]
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateRequest:
    """One evaluation: the configuration, the sets, and the folder of the results."""

    config: RunConfig
    sets: tuple[str, ...]
    out: str  # folder of the results, or AUTO_OUT


def read_evaluate_command(arguments: Sequence[str]) -> EvaluateRequest | tuple[str, str] | None:
    """The evaluation, or the two folders to compare; None where the arguments ask for help.

    ConfigError names all mistakes.
    """
    if wants_help(arguments):
        return None
    if lines := unknown_flags(arguments):
        raise ConfigError(lines)
    words = {name: text for text in arguments if (name := text.partition("=")[0]) in OWN_WORDS}
    settings = [text for text in arguments if text.partition("=")[0] not in OWN_WORDS]
    if "compare" in words:
        if others := [*settings, *(text for name, text in words.items() if name != "compare")]:
            raise ConfigError([f"{shown(' '.join(others))}: has no effect beside compare=[A,B]; leave it out"])
        return _two_folders(words["compare"])
    config = load_config(_complete(settings))
    names = config.task.eval_set_names
    if not names:
        raise ConfigError(["task.eval: names no set to evaluate on; give task.eval.<name>.path=..."])
    return EvaluateRequest(
        config=config,
        sets=_sets(words["sets"], names) if "sets" in words else names,
        out=_folder(words["out"]) if "out" in words else AUTO_OUT,
    )


def evaluate_help_text() -> str:
    """The text of --help: usage, short names with their defaults, examples."""
    defaults = {name: EvalConfig.model_fields[name].default for name in SHORT_NAMES} | {"num_prompts": "all"}
    lines = [f"  {f'{name}={defaults[name]}':<21}eval.{name}" for name in SHORT_NAMES]
    return USAGE.format(short_names="\n".join(lines))


def _complete(settings: Sequence[str]) -> list[str]:
    """Settings under a run's names, preceded by the defaults of an evaluation."""
    given = {name: value for name, _, value in (text.partition("=") for text in settings)}
    if misplaced := [
        name for name in given if any(name == taken or name.startswith(f"{taken}.") for taken in OF_A_RUN)
    ]:
        raise ConfigError(
            f"{name}={shown(given[name])}: has no effect on an evaluation; leave it out" for name in misplaced
        )
    if not given.keys() & {"model", "model.path", "experiment"}:
        raise ConfigError(["model: missing; give model=PATH, a hub name, or model=embedded"])
    before = list(ALWAYS)
    own_task = given.get("model") == "embedded" and "task" not in given
    if not own_task and given.get("task") != "arithmetic" and "experiment" not in given:
        before += DATA_TASK
        if given.get("model") not in config_groups()["model"]:  # these choices set the length themselves
            before.append("model.max_model_len=2048")
    return [*before, *(_in_full(text) for text in settings)]


def _in_full(text: str) -> str:
    name, equals, value = text.partition("=")
    if name == "model" and value not in config_groups()["model"]:
        return f"model.path={value}"
    return f"{'eval.' if name in SHORT_NAMES else ''}{name}{equals}{value}"


def _sets(text: str, names: tuple[str, ...]) -> tuple[str, ...]:
    chosen = _names(text, "set names, as sets=[gsm8k,math500]")
    if unknown := [name for name in chosen if name not in names]:
        hint = proposal(unknown[0], names)
        raise ConfigError([f"sets={shown(unknown[0])}: no such set{hint or ';'} the task has {', '.join(names)}"])
    return tuple(dict.fromkeys(chosen))


def _two_folders(text: str) -> tuple[str, str]:
    what = "two folders, as compare=[evals/a,evals/b]"
    folders = _names(text, what)
    if len(folders) != 2:
        raise ConfigError([f"{shown(text)}: must be {what}"])
    return folders[0], folders[1]


def _names(text: str, what: str) -> list[str]:
    value = _value(text)
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise ConfigError([f"{shown(text)}: must be a list of {what}"])
    return value


def _folder(text: str) -> str:
    value = _value(text)
    if not isinstance(value, str | int) or not str(value):
        raise ConfigError([f"{shown(text)}: must be a folder, as out=evals/mine"])
    return str(value)


def _value(text: str) -> Any:
    setting = parse_setting(text)
    if setting.is_sweep_override():
        raise ConfigError([f"{shown(text)}: has several values; put a list in brackets"])
    return setting.value()
