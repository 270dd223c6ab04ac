"""Whether an answer equals the reference (docs/grading.md).

In: two untrusted texts. Out: a bool, always: no exception, bounded work and a limit on time. Plain numbers and equal
texts are decided here; forms.py reads what else mathematics looks like, symbolic.py is asked last. Nothing here knows
completions, tags or rewards.
"""

import importlib
import re
from collections.abc import Callable

MAX_ANSWER_CHARACTERS = 1000  # anything longer is no final answer, and its comparison must stay cheap
TIME_LIMIT_S = 2.0  # for one comparison; what is not decided by then is not equal

_NUMBER = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?", re.ASCII)


def is_equivalent(candidate: object, reference: object) -> bool:
    """True if the candidate states the value, set, matrix, ... or text that the reference states.

    Exact: no tolerance anywhere. A sum or product that is still to be done does not equal a plain number. False for
    what is no text, is empty, is longer than MAX_ANSWER_CHARACTERS, or is not decided within TIME_LIMIT_S.
    """
    if not isinstance(candidate, str) or not isinstance(reference, str):
        return False
    if max(len(candidate), len(reference)) > MAX_ANSWER_CHARACTERS:
        return False
    left, right = " ".join(candidate.split()), " ".join(reference.split())
    if left == right:
        return bool(left)
    number, other = _plain_number(left), _plain_number(right)
    if number and other:
        return number == other
    if not left or not right:
        return False
    try:
        return _comparison()(left, right, seconds=TIME_LIMIT_S)
    except RecursionError:  # nested answer, and a caller whose own stack is nearly full
        return False


def _plain_number(words: str) -> str:
    """`042`, `42.0`, `+42` and `42.` give `42`, `.5` gives `0.5`, `-0` gives `0`; empty where it is no plain number."""
    number = _NUMBER.fullmatch(words)
    if number is None or not any(map(str.isdigit, words)):
        return ""
    sign, integer, fraction = number.groups(default="")
    integer, fraction = integer.lstrip("0") or "0", fraction.rstrip("0")
    magnitude = f"{integer}.{fraction}" if fraction else integer
    return f"-{magnitude}" if sign == "-" and magnitude != "0" else magnitude


def _comparison() -> Callable[..., bool]:
    """Loaded when an answer first needs it: plain numbers, a million of them, do not."""
    from rollout.rewards.grading.comparing import same_answer

    return same_answer


def prepare(reference: str) -> None:
    """Loads the algebra system where answers to this reference are likely to need it.

    A grader calls it before its clock runs: the import takes longer than most limits should be.
    """
    if any(map(str.isalpha, reference)) and not reference.isalpha():
        importlib.import_module("rollout.rewards.grading.symbolic")
