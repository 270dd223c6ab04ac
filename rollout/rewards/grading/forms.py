"""Forms of answers: a quantity, words, a collection or a relation, each possibly with a name (`x = ...`).

In: text in the dialect of spelling.py. Out: a Form, or None for an empty text. Splits at brackets, commas, relation
signs and the like; comparing.py compares two forms.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from rollout.rewards.grading.limits import bracket_depth
from rollout.rewards.grading.rationals import exact_value, is_calculation
from rollout.rewards.grading.spelling import ROW_MARK
from rollout.rewards.grading.units import split_unit

MAX_DEPTH = 12  # depth of nested collections; a deeper text is compared as text

MAX_PRODUCT_LETTERS = 3

LIST, SET, UNION, MATRIX, ROW = "list", "set", "union", "matrix", "row"


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """A number or an expression."""

    text: str  # text without the unit
    value: Fraction | None  # exact value of a rational number, else None
    unit: str  # name of the unit, "" if there is none
    calculation: bool  # True if a sum or product is not worked out


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """A text: a name, yes or no, the letter of a choice."""

    text: str  # text in lower case
    choice: bool  # True for a single letter that is marked as a choice: (C), \\text{C}
    product: str = ""  # letters as written, if they may also be a product of variables: xy


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """Several forms, of a kind: list (free order), set, union, matrix (of rows), row, or two brackets as in `(]`."""

    kind: str
    items: tuple["Form", ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """A form with a name: `x = 5`, `f(x) = 2x`, `x \\in [1, 2]`."""

    name: str
    body: "Form"


@dataclass(frozen=True, kw_only=True, slots=True)
class Relation:
    """An equation or inequality that does not name one value; its sign is =, <, \\leq or \\neq."""

    left: str
    sign: str
    right: str


Form = Quantity | Words | Collection | Named | Relation

_RELATION = re.compile(r"(=|<|>|\\leq(?![a-zA-Z])|\\geq(?![a-zA-Z])|\\neq(?![a-zA-Z])|\\in(?![a-zA-Z]))")
_COMMA = re.compile(r"([,;](?:(?:and|or) )?|\\text\{(?:,? ?(?:and|or),?|,)\}| (?:and|or) )")
_UNION = re.compile(r"(\\cup(?![a-zA-Z]))")
_NAME = re.compile(
    r"\([a-z](?:,[a-z])+\)|(?:\\text\{[^{}\\]*\}|\\?[a-zA-Z]+(?: [a-zA-Z]+)?)"
    r"(?:_(?:[a-zA-Z0-9]|\{[a-zA-Z0-9]+\}))?'?(?:\([a-z](?:,[a-z])*\))?"
)
_VARIABLE = re.compile(r"[a-zA-Z]|\\(?:alpha|beta|gamma|theta|lambda|mu|phi|omega)")
_WORDS = re.compile(r"[^\W\d_]{2,}(?:[ '.]+[^\W\d_]+)*|[^\W\d_]{3,}(?:[ '.-]+[^\W\d_]+)*")
_TEXT_ONLY = re.compile(r"\\text\{([^{}\\]*)\}")
_CHOICE = re.compile(r"\(?([A-Za-z])[).]?\)?")
_MATRIX = re.compile(r"\\begin\{matrix\}(.*)\\end\{matrix\}")
_FLIPPED = {"<": ">", ">": "<", r"\leq": r"\geq", r"\geq": r"\leq"}


def read_form(text: str, *, depth: int = 0) -> Form | None:
    """The form of a text in plain spelling; a text of no other form is a Quantity without value or unit."""
    text = text.strip()
    if not text:
        return None
    if depth > MAX_DEPTH:
        return _quantity(text)
    quantity = _quantity(text)
    if quantity.value is not None:
        return quantity
    for reading in (_words, _matrix, _list, _related, _union, _bracketed):
        form = reading(text, depth)
        if form is not None:
            return form
    if r"\pm" in text or r"\mp" in text:
        return _both_signs(text, depth)
    return quantity


def _quantity(text: str) -> Quantity:
    body, unit = split_unit(text)
    return Quantity(text=body, value=exact_value(body), unit=unit, calculation=is_calculation(body))


def _words(text: str, depth: int) -> Form | None:
    """The Words of text in \\text{}, of a choice in brackets, or of letters alone; one bare letter is a variable."""
    wrapped = _TEXT_ONLY.fullmatch(text)
    inner = wrapped[1].strip() if wrapped else text
    choice = _CHOICE.fullmatch(inner)
    if choice and (wrapped or len(inner) > 1):
        return Words(text=choice[1].lower(), choice=True)
    if wrapped and inner:
        return Words(text=inner.lower().strip("."), choice=False)
    is_list = re.search(r" (?:and|or) ", text)
    if is_list or not _WORDS.fullmatch(text):
        return None
    return Words(text=text.lower(), choice=False, product=text if len(text) <= MAX_PRODUCT_LETTERS else "")


def _matrix(text: str, depth: int) -> Form | None:
    found = _MATRIX.fullmatch(text)
    if found is None or r"\begin" in found[1]:
        return None
    rows = [row.split("&") for row in found[1].removesuffix(ROW_MARK).split(ROW_MARK)]
    return _collection(MATRIX, [_read_all(ROW, row, depth) for row in rows])


def _list(text: str, depth: int) -> Form | None:
    pieces = _split(text, _COMMA)[::2]
    if len(pieces) < 2:
        return None
    if r"\text" in text:  # `1, 2,\text{ and }3` has two separators in a row
        pieces = [piece for piece in pieces if piece.strip()]
    return _collection(LIST, _flat(read_form(piece, depth=depth + 1) for piece in pieces))


def _related(text: str, depth: int) -> Form | None:
    parts = _split(text, _RELATION)
    sides, signs = [side.strip() for side in parts[::2]], parts[1::2]
    if not signs or not all(sides):
        return None
    named = bool(_NAME.fullmatch(sides[0]))
    if signs == [r"\in"] or (set(signs) == {"="} and named):
        body = read_form(sides[-1], depth=depth + 1)
        return None if body is None else Named(name=_name(sides[0]), body=body) if named else body
    interval = _interval(sides, signs, depth)
    if interval is not None:
        return interval
    if len(signs) > 1 or signs == [r"\in"]:
        return None
    left, right = sides if signs[0] not in (">", r"\geq") else sides[::-1]
    return Relation(left=left, sign=_FLIPPED[signs[0]] if signs[0] in (">", r"\geq") else signs[0], right=right)


def _interval(sides: list[str], signs: list[str], depth: int) -> Form | None:
    """The interval of `a < x \\leq b`, `x > a` and their mirror images, named by the variable."""
    if not set(signs) <= set(_FLIPPED):
        return None
    if len(signs) == 1 and _VARIABLE.fullmatch(sides[0]):
        sides, signs = sides[::-1], [_FLIPPED[signs[0]]]
    if not _VARIABLE.fullmatch(sides[1]) or len(signs) > 2:
        return None
    if any(sides[1] in side for side in (sides[0], *sides[2:])):
        return None  # the variable is on both sides
    upward = signs[0] in ("<", r"\leq")
    if len(signs) == 1:
        sides, signs = [*sides, r"\infty" if upward else r"-\infty"], [*signs, "<" if upward else ">"]
    if (signs[1] in ("<", r"\leq")) != upward:
        return None
    if not upward:
        sides, signs = sides[::-1], [_FLIPPED[sign] for sign in reversed(signs)]
    kind = ("(" if signs[0] == "<" else "[") + (")" if signs[1] == "<" else "]")
    body = _read_all(kind, [sides[0], sides[2]], depth)
    return None if body is None else Named(name=sides[1], body=body)


def _union(text: str, depth: int) -> Form | None:
    pieces = _split(text, _UNION)[::2]
    return _read_all(UNION, pieces, depth) if len(pieces) > 1 else None


def _bracketed(text: str, depth: int) -> Form | None:
    """A set in braces, or a tuple or interval in any pair of round and square brackets."""
    for opening, closing in ((r"\{", r"\}"), ("(", ")"), ("(", "]"), ("[", ")"), ("[", "]")):
        if text.startswith(opening) and text.endswith(closing) and len(text) >= len(opening + closing):
            inner = text[len(opening) : -len(closing)]
            if bracket_depth(inner) < 0:
                return None
            pieces = _split(inner, re.compile("([,;])"))[::2]
            if opening == r"\{":
                items = _flat(read_form(piece, depth=depth + 1) for piece in pieces) if inner.strip() else ()
                return _collection(SET, items)
            if len(pieces) == 1 and opening + closing == "()":
                return read_form(inner, depth=depth + 1)
            return _read_all(opening + closing, pieces, depth)
    return None


def _both_signs(text: str, depth: int) -> Form | None:
    upper = text.replace(r"\pm", "+").replace(r"\mp", "-")
    lower = text.replace(r"\pm", "-").replace(r"\mp", "+")
    return _read_all(LIST, [signed.removeprefix("+") for signed in (upper, lower)], depth)


def _read_all(kind: str, texts: Iterable[str], depth: int) -> Collection | None:
    return _collection(kind, [read_form(text, depth=depth + 1) for text in texts])


def _collection(kind: str, items: Iterable[Form | None]) -> Collection | None:
    """The collection of the pieces; None if a piece is empty, as in `1,,2`."""
    found = tuple(items)
    present = tuple(item for item in found if item is not None)
    return Collection(kind=kind, items=present) if len(present) == len(found) else None


def _flat(items: Iterable[Form | None]) -> tuple[Form | None, ...]:
    """The items of a list or set, with `1 \\pm 2` replaced by its two values."""
    flat: list[Form | None] = []
    for item in items:
        flat.extend(item.items if isinstance(item, Collection) and item.kind == LIST else [item])
    return tuple(flat)


def _name(text: str) -> str:
    wrapped = _TEXT_ONLY.fullmatch(text)
    return wrapped[1].lower().strip() if wrapped else text


def _split(text: str, separator: re.Pattern[str]) -> list[str]:
    """Pieces and separators alternately; separators inside brackets or \\text{} do not count."""
    pieces, start, depth = [], 0, 0
    for found in re.finditer(rf"(?P<separator>{separator.pattern})|[()\[\]{{}}]", text):
        if found["separator"] is None:
            depth += 1 if found[0] in "([{" else -1
        elif depth == 0:
            pieces += [text[start : found.start()], found[0]]
            start = found.end()
    return [*pieces, text[start:]]
