"""Whether an answer equals the reference.

In: two untrusted texts. Out: a bool, always: no exception, no work beyond one pass over a bounded text. Compares texts
after normalising white space, and plain integers and decimals exactly by value; knows no other mathematics.
"""

import re

MAX_ANSWER_CHARACTERS = 1000  # anything longer is no final answer, and its comparison must stay cheap

_NUMBER = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?", re.ASCII)


def is_equivalent(candidate: object, reference: object) -> bool:
    """True if both are the same text up to white space at the ends and its amount within, or the same plain number.

    Numbers are a sign, digits and at most one point: `042`, `42.0`, `+42` and `42.` equal `42`, `.5` equals `0.50`,
    `-0` equals `0`. Everything else (`1,000`, `4e1`, `84/2`) compares as text. False for what is no text, is empty, or
    is longer than MAX_ANSWER_CHARACTERS.
    """
    if not isinstance(candidate, str) or not isinstance(reference, str):
        return False
    if max(len(candidate), len(reference)) > MAX_ANSWER_CHARACTERS:
        return False
    left, right = _normal_form(candidate), _normal_form(reference)
    return bool(left) and left == right


def _normal_form(text: str) -> str:
    words = " ".join(text.split())
    number = _NUMBER.fullmatch(words)
    if number is None or not any(map(str.isdigit, words)):
        return words
    sign, integer, fraction = number.groups(default="")
    integer, fraction = integer.lstrip("0") or "0", fraction.rstrip("0")
    magnitude = f"{integer}.{fraction}" if fraction else integer
    return f"-{magnitude}" if sign == "-" and magnitude != "0" else magnitude
