"""Plain spelling of answers: one form for LaTeX variants, Unicode, spaces, delimiters, plain words.

In: an answer as it was written. Out: the same answer in a small LaTeX dialect, which forms.py reads. Replaces text by
text; knows no values and no structure beyond braces. Every pattern takes linear time, and texts are bounded.
"""

import re

_UNICODE = {
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ",
    "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "∪": r"\cup ", "∈": r"\in ", "±": r"\pm ", "∓": r"\mp ",
    "°": r"^\circ ", "²": "^2", "³": "^3", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}",
    "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "′": "'", "\u00a0": " ", "∅": r"\emptyset ",
}  # fmt: skip
_TRANSLATION = str.maketrans(_UNICODE)
_SYNONYMS = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "le": "leq", "leqslant": "leq", "ge": "geq", "geqslant": "geq",
    "ne": "neq", "lbrace": "{", "rbrace": "}", "ast": "cdot", "infin": "infty", "mbox": "text", "textbf": "text",
    "textit": "text", "textrm": "text", "mathrm": "text", "operatorname": "text", "hbox": "text",
    "varnothing": "emptyset", "degree": "text{degrees}", "lt": "<", "gt": ">", "lbrack": "[", "rbrack": "]",
    "land": "text{and}", "lor": "text{or}",
}  # fmt: skip
_PLAIN_SYNONYMS = ("<", ">", "[", "]")  # synonyms that are characters, not commands
_INVISIBLE = (
    "left", "right", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr", "biggl", "biggr", "displaystyle",
    "textstyle", "limits", "mathstrut",
)  # fmt: skip
_FUNCTIONS = "sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|ln|log|exp"

ROW_MARK = "\ue000"  # private character in place of LaTeX's row end, whose backslashes would look like a command
_ROW_END = re.compile(r"\\\\(?:\[[0-9.]+[a-z]{2}\])?|\\cr(?![a-zA-Z])")
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_GROUP_MARK = re.compile(r"(?<=[0-9])(?:,\\!|\{,\}|\\[,;: !])\s*(?=[0-9]{3}(?![0-9]))")
_SPACE = re.compile(r"\\[,;: >]|~|\\(?:quad|qquad|enspace|thinspace)(?![a-zA-Z])")
_ENVIRONMENT = re.compile(r"\\(begin|end)\{(?:[bBp]?matrix|smallmatrix|array)\}(?:\{[lcr| ]*\})?")
_DEGREES = re.compile(r"\^(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\})")
_MONEY = re.compile(r"(-?)\\?\$\s*(?=[-+.0-9])")
_PREFIX = re.compile(
    r"(?:(?:so |thus |therefore,? )?(?:the |my )?(?:final )?answer(?: is|:| is:)|ans(?:wer)?:)\s*", re.I
)
_WORD = re.compile(rf"(?<![\\a-zA-Z])(pi|infinity|inf|infty|oo|{_FUNCTIONS})(?![a-zA-Z])")
_ROOT_CALL = re.compile(r"(?<![\\a-zA-Z])(?:sqrt|√)\s*(?=\()|√\s*(?=[0-9a-z])|(?<![\\a-zA-Z])sqrt(?=\{)")
_ARGUMENT = re.compile(r"\\(frac|sqrt)(\[[^\[\]{}]*\])?")
_TEXT = re.compile(r"\\text\s*\{([^{}\\]*)\}")
_LIST_COMMA = re.compile(r"(?<=[0-9]), +(?=[0-9])")  # comma between two numbers: 1, 000 are two numbers, 1,000 is one
_NEEDLESS_SPACE = re.compile(r"(?<![a-zA-Z0-9]) | (?![a-zA-Z0-9])")


def plain_spelling(text: str) -> str:
    """The answer in the dialect of forms.py: no delimiters, one command for each meaning, arguments in braces."""
    text = _ROW_END.sub(ROW_MARK, text.replace(ROW_MARK, "").translate(_TRANSLATION))
    text = _boxed(text).strip().strip('`"')
    text = _PREFIX.sub("", _delimited(text.strip("*").strip()), count=1)
    text = _GROUP_MARK.sub("", text).replace(r"\!", "")
    text = _SPACE.sub(" ", text).replace(r"\%", "%").replace("**", "^")
    text = _ENVIRONMENT.sub(r"\\\1{matrix}", text)
    text = _COMMAND.sub(_synonym, text)
    text = _DEGREES.sub(r"\\text{degrees}", text)
    text = _MONEY.sub(r"\1\\text{$}", text)
    text = _WORD.sub(
        lambda found: "\\" + {"oo": "infty", "inf": "infty", "infinity": "infty"}.get(found[1], found[1]), text
    )
    text = _ROOT_CALL.sub(r"\\sqrt", text).replace("*", r"\cdot ")
    text = _TEXT.sub(lambda found: rf"\text{{{' '.join(found[1].split())}}}", text)
    text = _with_braces(text)
    text = re.sub(r"([_^])\{([a-zA-Z0-9])\}", r"\1\2", text)
    text = _LIST_COMMA.sub(";", text)
    text = _NEEDLESS_SPACE.sub("", " ".join(text.split()))
    return re.sub(r"(\\[a-zA-Z]+) (?![a-zA-Z])", r"\1", text).rstrip(".").strip()


def _synonym(found: re.Match[str]) -> str:
    name = found[1]
    if name in _INVISIBLE:
        return ""
    meant = _SYNONYMS.get(name, name)
    return meant if meant in _PLAIN_SYNONYMS else f"\\{meant}"


def _delimited(text: str) -> str:
    """The text without delimiters of mathematics. A single `$` before a number is money and stays, as does `\\$`."""
    text = re.sub(r"\\[()\[\]]", "", text)
    if len(re.findall(r"(?<!\\)\$", text)) % 2 == 0:
        text = re.sub(r"(?<!\\)\$+", " ", text)
    return text.strip()


def _boxed(text: str) -> str:
    """The content of \\boxed. Several boxes with only commas or `and` between are a list; else the last counts."""
    contents: list[str] = []
    between: list[str] = []
    position = 0
    for found in re.finditer(r"\\f?boxed\s*\{|\\fbox\s*\{", text):
        if found.start() < position:
            continue  # a box inside a box
        end = _closing(text, found.end() - 1)
        if end < 0:
            return text
        between.append(text[position : found.start()])
        contents.append(text[found.end() : end])
        position = end + 1
    if not contents:
        return text
    are_list = all(re.fullmatch(r"[\s$]*(?:,|;|and|or|, and|, or)[\s$]*", gap) for gap in between[1:])
    return ", ".join(contents) if are_list else contents[-1]


def _closing(text: str, start: int, *, brackets: str = "{}") -> int:
    """Index of the bracket that closes the one at start; -1 if there is none. An escaped brace does not count."""
    depth = 0
    for index in range(start, len(text)):
        if text[index] in brackets and (brackets == "()" or text[index - 1 : index] != "\\"):
            depth += 1 if text[index] == brackets[0] else -1
            if depth == 0:
                return index
    return -1


def _with_braces(text: str) -> str:
    """The text with arguments of \\frac and \\sqrt in braces; `\\frac43`, `\\frac 5{19}`, `\\sqrt2` are LaTeX too."""
    pieces: list[str] = []
    position = 0
    for found in _ARGUMENT.finditer(text):
        if found.start() < position:
            continue
        pieces.append(text[position : found.end()])
        position = found.end()
        for _ in range(2 if found[1] == "frac" else 1):
            position, argument = _argument(text, position, root=found[1] == "sqrt")
            pieces.append(argument)
    return "".join([*pieces, text[position:]])


def _argument(text: str, position: int, *, root: bool) -> tuple[int, str]:
    """The next argument as `{...}` and the index of its end; an empty text if there is none."""
    position += len(text[position:]) - len(text[position:].lstrip(" "))
    if position == len(text):
        return position, ""
    if text[position] == "{" or (root and text[position] == "("):
        end = _closing(text, position, brackets="{}" if text[position] == "{" else "()")
        return (end + 1, "{" + _with_braces(text[position + 1 : end]) + "}") if end >= 0 else (position, "")
    command = _COMMAND.match(text, position)
    if command:
        return (command.end(), f"{{{command[0]}}}") if command[1] not in ("frac", "sqrt", "text") else (position, "")
    if root:  # plain text may say sqrt 12, where LaTeX takes one character
        digits = re.compile(r"(?<= )[0-9]+").match(text, position)
        if digits:
            return digits.end(), f"{{{digits[0]}}}"
    return (position + 1, f"{{{text[position]}}}") if text[position].isalnum() else (position, "")
