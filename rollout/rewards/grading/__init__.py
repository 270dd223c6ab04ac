"""Comparison of an answer with the reference (docs/grading.md).

In: two untrusted texts. Out: always a bool, without an exception, with bounded work and within a time limit. This
module decides plain numbers and equal texts, forms.py reads other forms of answers, and symbolic.py compares what is
left. Knows nothing of completions, tags or rewards.
"""

import importlib
import re

MAX_ANSWER_CHARACTERS = 1000  # length beyond which a text is no final answer, so that comparisons stay cheap
TIME_LIMIT_S = 2.0  # of processor time for one comparison; what is not decided by then is not equal

_NUMBER = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?", re.ASCII)


def is_equivalent(candidate: object, reference: object) -> bool:
    """Whether the candidate states the same value, set, matrix, ... or text as the reference.

    The comparison is exact, without tolerance. A sum or product that is not worked out does not equal a plain number.
    False for an argument that is no text, is empty, is longer than MAX_ANSWER_CHARACTERS, or is not decided within
    TIME_LIMIT_S.
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
    from rollout.rewards.grading.comparing import same_answer  # loaded when an answer needs it; plain numbers do not

    try:
        return same_answer(left, right, seconds=TIME_LIMIT_S)
    except RecursionError:  # a nested answer, when the caller's stack is nearly full
        return False


def _plain_number(words: str) -> str:
    """Normal form of a plain number: `042`, `42.0`, `+42`, `42.` give `42`, `.5` gives `0.5`; else an empty text."""
    number = _NUMBER.fullmatch(words)
    if number is None or not any(map(str.isdigit, words)):
        return ""
    sign, integer, fraction = number.groups(default="")
    integer, fraction = integer.lstrip("0") or "0", fraction.rstrip("0")
    magnitude = f"{integer}.{fraction}" if fraction else integer
    return f"-{magnitude}" if sign == "-" and magnitude != "0" else magnitude


def prepare(reference: str) -> None:
    """Loads the algebra system if answers to this reference are likely to need it.

    A grader calls it before its time limit starts, because the import takes longer than most limits.
    """
    if any(map(str.isalpha, reference)) and not reference.isalpha():
        importlib.import_module("rollout.rewards.grading.symbolic")
