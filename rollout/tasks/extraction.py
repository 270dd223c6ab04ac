r"""Extraction of the reference answer from the text of a data set's answer column.

In: the text and the form in which it has the answer. Out: the answer, or None if the text does not have this form.
Takes time linear in the length of any text. Knows nothing of the meaning of answers (rollout/rewards/grading/).
"""

import re
from typing import Literal

Extraction = Literal["plain", "hashes", "boxed", "boxed_or_plain"]

HASHES = "#### "  # mark in GSM8K between the worked solution and the answer
BOXED = "\\boxed{"


def extract_answer(text: str, extraction: Extraction) -> str | None:
    """The answer without surrounding white space, or None if it is absent or empty."""
    match extraction:
        case "plain":
            answer: str | None = text
        case "hashes":
            _, found, rest = text.rpartition(HASHES)
            answer = rest if found else None
        case "boxed":
            answer = last_boxed(text)
        case "boxed_or_plain":
            answer = last_boxed(text) if BOXED in text else text
    return (answer or "").strip() or None


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}` with balanced braces; `\{` and `\}` do not count as braces.

    Example: `so $x=\boxed{1}$, or \boxed{\frac{1}{2}}` gives `\frac{1}{2}`.
    """
    open_braces: list[int | None] = []  # start of the content for a \boxed{, None for any other brace
    last: tuple[int, int] | None = None
    for token in re.finditer(r"\\boxed\{|\\.|[{}]", text, re.DOTALL):
        if token[0] in (BOXED, "{"):
            open_braces.append(token.end() if token[0] == BOXED else None)
        elif token[0] == "}" and open_braces:
            begin = open_braces.pop()
            if begin is not None and (last is None or begin > last[0]):
                last = (begin, token.start())
    return text[last[0] : last[1]] if last else None
