"""The verdict on a completion: one component for each reward that a run is configured with.

In: the `reward` section. Out: a function from (completion text, reference answer) to a RewardVerdict, for the grader
children; or one line for each reward of the user's own that cannot be loaded. Knows no reward by name, and nothing of
processes and time limits.
"""

import importlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from numbers import Real

from configs.rewards import RewardConfig
from rollout.contract import RewardComponent, RewardVerdict
from rollout.rewards.built_in import BUILT_IN, Reward

RewardFunction = Callable[[str, str], RewardVerdict]  # (completion text, reference answer)
# Called before each of the user's own rewards with its name and the verdict in which it and those after it have failed.
Announce = Callable[[str, RewardVerdict], None]

MAX_MESSAGE_CHARACTERS = 300  # characters of an exception's text that are told


class RewardError(RuntimeError):
    """A reward raised or gave no finite number; the message names it."""


def make_reward(settings: dict[str, object], announce: Announce) -> RewardFunction:
    """The reward of the `reward` section, given as plain values."""
    config = RewardConfig.model_validate(settings)
    own = {name: load_own(name, path) for name, path in config.own_functions.items()}
    zeros = {component.name: component for component in zero_verdict(config).components}

    def grade(completion_text: str, reference_answer: str) -> RewardVerdict:
        components = zeros | {name: replace(zeros[name], failed=True) for name in own}
        for name, reward in BUILT_IN.items():
            components[name] = replace(zeros[name], value=reward(completion_text, reference_answer))
        for name, reward in own.items():
            announce(name, RewardVerdict(components=tuple(components.values())))
            try:
                components[name] = replace(zeros[name], value=reward(completion_text, reference_answer))
            except RewardError as error:
                if config.on_error == "raise":
                    raise
                print(f"{error}; it counts as 0", file=sys.stderr)
        return RewardVerdict(components=tuple(components.values()))

    return grade


def zero_verdict(config: RewardConfig) -> RewardVerdict:
    """The verdict on a completion that met a limit before its rewards were known: each of them is 0."""
    return RewardVerdict(
        components=tuple(
            RewardComponent(name=name, value=0.0, weight=weight) for name, weight in config.weights.items()
        )
    )


def load_own(name: str, path: str) -> Reward:
    """The function at the import path `package.module:function`, which raises RewardError where it fails.

    ValueError, one line with the remedy, where there is no such function.
    """
    function = _import(name, path)

    def reward(completion_text: str, reference_answer: str) -> float:
        process_id = os.getpid()
        try:
            value = function(completion_text, reference_answer)
            number = float(value) if isinstance(value, Real) else math.nan
            given = "" if math.isfinite(number) else f"gave {_shortened(repr(value))}, not a finite number"
        except MemoryError:
            raise  # a limit, which the child's exit status reports
        except BaseException as error:  # sys.exit and what libraries cancel with included
            raise RewardError(f"reward.extra.{name} raised {type(error).__name__}: {_shortened(str(error))}") from error
        finally:
            if os.getpid() != process_id:  # a copy that the reward has forked, and which must not go on grading
                os._exit(0)
        if given:
            raise RewardError(f"reward.extra.{name} {given}")
        return number

    return reward


def unusable_rewards(config: RewardConfig) -> Iterator[str]:
    """One line for each reward of the user's own that cannot be loaded."""
    for name, path in config.own_functions.items():
        try:
            load_own(name, path)
        except ValueError as error:
            yield str(error)


def _shortened(text: str) -> str:
    """The beginning of a text of any length, in one line."""
    return " ".join(text[:MAX_MESSAGE_CHARACTERS].split())


def _import(name: str, path: str) -> Reward:
    module_name, _, attribute = path.partition(":")
    setting = f"reward.extra.{name}.function={path}"
    if os.getcwd() not in sys.path:  # where one's own modules lie
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        told = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{setting}: the module cannot be imported ({told}); correct it or PYTHONPATH") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        told = "is not callable" if hasattr(module, attribute) else f"is not in {module_name}"
        raise ValueError(f"{setting}: {attribute} {told}; name a function(completion_text, reference_answer) -> float")
    return found
