"""A reward function that misbehaves on request; test_graders.py names it by its import path."""

import os
import re
import time
from functools import partial

from rollout.contract import RewardComponent, RewardVerdict
from rollout.rewards.functions import Announce, RewardFunction, make_reward


def make(settings: dict[str, object], announce: Announce) -> RewardFunction:
    """The factory that the graders are given."""
    return partial(grade_or_misbehave, make_reward(settings, announce))


def half(completion_text: str, reference_answer: str) -> float:
    """An extra reward without faults."""
    return 0.5


def faulty(completion_text: str, reference_answer: str) -> object:
    """An extra reward that misbehaves on request."""
    match completion_text:
        case "raise":
            raise KeyError("no such thing")
        case "nan":
            return float("nan")
        case "text":
            return "1.0"
        case "hang":
            time.sleep(3600)
    return 1.0


def hanging(completion_text: str, reference_answer: str) -> float:
    """An extra reward that never returns."""
    time.sleep(3600)
    return 0.0


def grade_or_misbehave(grade: RewardFunction, completion_text: str, reference_answer: str) -> RewardVerdict:
    """Grades, except for texts that ask for a hang, a hang inside C code, memory, a defect, or the process id."""
    match completion_text:
        case "hang":
            time.sleep(3600)
        case "hang in C":
            re.fullmatch(r"(a+)+b", "a" * 64)  # exponential, and never gives up the interpreter's lock
        case "eat memory":
            bytearray(64 * 2**30)
        case "raise":
            raise ValueError("a defect of the reward function")
        case "process id":
            return RewardVerdict(components=(RewardComponent(name="pid", value=float(os.getpid()), weight=1.0),))
    return grade(completion_text, reference_answer)
