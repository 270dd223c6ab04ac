"""Rewards of the user's own: found by import path, and called so that a failure names the reward.

In: a name and an import path, or the `reward` section. Out: a function, or one line for each that cannot be loaded.
Knows nothing of weights, processes and time limits.
"""

import importlib
import math
import os
import sys
from collections.abc import Iterator
from numbers import Real

from configs.rewards import RewardConfig
from rollout.rewards.built_in import Reward


class RewardError(RuntimeError):
    """A reward raised or gave no finite number; the message names it."""


def load_own(name: str, path: str) -> Reward:
    """The function at the import path `package.module:function`, which raises RewardError where it fails.

    ValueError, one line with the remedy, where there is no such function.
    """
    function = _import(name, path)

    def reward(completion_text: str, reference_answer: str) -> float:
        try:
            value = function(completion_text, reference_answer)
        except MemoryError:
            raise  # a limit, which the child's exit tells
        except (Exception, SystemExit) as error:
            told = " ".join(str(error).split())
            raise RewardError(f"reward.extra.{name} raised {type(error).__name__}: {told}") from error
        if not isinstance(value, Real) or not math.isfinite(value):
            raise RewardError(f"reward.extra.{name} gave {value!r}, not a finite number")
        return float(value)

    return reward


def unusable_rewards(config: RewardConfig) -> Iterator[str]:
    """One line for each reward of the user's own that cannot be loaded."""
    for name, path in config.own_functions.items():
        try:
            load_own(name, path)
        except ValueError as error:
            yield str(error)


def _import(name: str, path: str) -> Reward:
    module_name, _, attribute = path.partition(":")
    setting = f"reward.extra.{name}.function={path}"
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
