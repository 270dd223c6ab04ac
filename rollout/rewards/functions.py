"""The reward that a run is configured with: format and answer, weighted, and rewards of the user's own.

In: the `reward` section. Out: a function from (completion text, reference answer) to a RewardVerdict, for the grader
children; and a check of import paths for the driver. Knows nothing of processes and time limits.
"""

import importlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from numbers import Real

from configs.rewards import RewardConfig
from rollout.contract import RewardVerdict
from rollout.rewards.format_and_answer import grade_completion

ExtraReward = Callable[[str, str], float]  # (completion text, reference answer)
RewardFunction = Callable[[str, str], RewardVerdict]
# Told, before each extra reward runs, its name and the verdict in which it and those after it have failed.
Announce = Callable[[str, RewardVerdict], None]


class RewardError(RuntimeError):
    """An extra reward raised or gave no finite number; the message names it."""


def load_extra(name: str, function: str) -> ExtraReward:
    """The function at the import path; ValueError, one line with the remedy, where there is none."""
    module_name, _, attribute = function.partition(":")
    setting = f"reward.extra.{name}.function={function}"
    if os.getcwd() not in sys.path:  # where one's own modules lie
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{setting}: the module cannot be imported ({told}); correct it or PYTHONPATH") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        told = "is not callable" if hasattr(module, attribute) else f"is not in {module_name}"
        raise ValueError(f"{setting}: {attribute} {told}; name a function(completion_text, reference_answer) -> float")
    return found


def unusable_extras(config: RewardConfig) -> Iterator[str]:
    """One line for each extra reward that cannot be loaded."""
    for name, extra in config.extra.items():
        try:
            load_extra(name, extra.function)
        except ValueError as error:
            yield str(error)


def make_reward(settings: dict[str, object], announce: Announce) -> RewardFunction:
    """The reward of the `reward` section, given as plain values."""
    config = RewardConfig.model_validate(settings)
    extras = {name: load_extra(name, extra.function) for name, extra in config.extra.items()}
    weights = {name: extra.weight for name, extra in config.extra.items()}

    def grade(completion_text: str, reference_answer: str) -> RewardVerdict:
        verdict = replace(
            grade_completion(completion_text, reference_answer),
            extra=dict.fromkeys(extras, 0.0),
            format_weight=config.format_weight,
            answer_weight=config.answer_weight,
            extra_weights=weights,
            num_failed=len(extras),
        )
        for name, extra in extras.items():
            announce(name, verdict)
            try:
                value = _value(name, extra, completion_text, reference_answer)
            except RewardError:
                if config.on_error == "raise":
                    raise
            else:
                verdict = replace(verdict, extra=verdict.extra | {name: value}, num_failed=verdict.num_failed - 1)
        return verdict

    return grade


def _value(name: str, extra: ExtraReward, completion_text: str, reference_answer: str) -> float:
    try:
        value = extra(completion_text, reference_answer)
    except MemoryError:
        raise  # a limit, which the child's exit tells
    except (Exception, SystemExit) as error:
        told = " ".join(str(error).split())
        raise RewardError(f"reward.extra.{name} raised {type(error).__name__}: {told}") from error
    if not isinstance(value, Real) or not math.isfinite(value):
        raise RewardError(f"reward.extra.{name} gave {value!r}, not a finite number")
    return float(value)
