r"""The reference answer inside the text of a data set's answer column.

In: the text and how it holds the answer. Out: the answer, or None where the text does not have that form. Linear in the
length of the text whatever it contains; what an answer means is rollout/grading's business.
"""

from typing import Literal

Extraction = Literal["plain", "hashes", "boxed", "boxed_or_plain"]

HASHES = "#### "  # GSM8K: the worked solution, then the answer behind this
BOXED = "\\boxed{"


def extract_answer(text: str, extraction: Extraction) -> str | None:
    """The answer without surrounding white space; None for one that is absent or empty."""
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
    r"""The content of the `\boxed{...}` that begins last among those with balanced braces; `\{` and `\}` do not count.

    Example: `so $x=\boxed{1}$, or \boxed{\frac{1}{2}}` gives `\frac{1}{2}`.
    """
    open_braces: list[int | None] = []  # where the content begins for a \boxed{, None for any other brace
    last: tuple[int, int] | None = None
    position = 0
    while position < len(text):
        character = text[position]
        if text.startswith(BOXED, position):
            position += len(BOXED)
            open_braces.append(position)
            continue
        if character == "\\":
            position += 1  # whatever follows is escaped
        elif character == "{":
            open_braces.append(None)
        elif character == "}" and open_braces:
            begin = open_braces.pop()
            if begin is not None and (last is None or begin > last[0]):
                last = (begin, position)
        position += 1
    return text[last[0] : last[1]] if last else None
