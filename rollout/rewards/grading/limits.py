"""Limits on the comparison of untrusted expressions: which texts a parser may read, and a time limit.

In: a text, or a function to call. Out: whether the text is harmless, or the function's result. The check keeps hostile
answers from the parser and the algebra system. The time limit ends comparisons that are slow nevertheless, and the
process limits of a grader apply where both fail. Knows no mathematics beyond the names of commands.
"""

import ctypes
import re
import threading
import time
from collections.abc import Callable

MAX_CHARACTERS = 200  # length of an expression; the longest reference of MATH500 has 60
MAX_DEPTH = 6  # depth of brackets; the parser's time grows several-fold with each level
MAX_POWERS = 12
MAX_EXPONENT = 10_000  # product of all numbers in exponents; with larger ones integer arithmetic may not return
MAX_BARS = 4  # number of bars, as in |x|; the parser's time doubles with each
MAX_DIGITS = 15  # digits of one number in an expression; a rational number alone may be longer
MAX_ALGEBRA_DIGITS = 4  # digits of a number that the algebra system may evaluate and simplify
BUSY_FACTOR = 10  # seconds of the clock that a second of processor time may take
STOP_EVERY_S, STOP_ATTEMPTS = 0.05, 3  # interval and number of requests to stop; a library may catch the first

_COMMANDS = frozenset(
    r"frac sqrt pi infty cdot times div pm leq geq neq sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln "
    r"log exp alpha beta gamma delta epsilon theta lambda mu nu rho sigma tau phi chi psi omega Gamma Delta Theta "
    r"Lambda Sigma Phi Psi Omega lfloor rfloor lceil rceil".split()
)
_ALLOWED = re.compile(r"[-+*/^_=<>|'.,!()\[\]{}a-zA-Z0-9 \\]*")


class TimeUpError(BaseException):
    """Raised inside a thread whose time is up; not an Exception, so that no library catches it."""


def may_parse(text: str) -> bool:
    """Whether the text is an expression that the parser reads in bounded time and without dropping anything.

    A digit with an index, as in 52_8, is refused because the parser drops the base. Factorials are refused because they
    would have to be computed.
    """
    if len(text) > MAX_CHARACTERS or not _ALLOWED.fullmatch(text) or "!" in text:
        return False
    if not set(re.findall(r"\\([a-zA-Z]+)", text)) <= _COMMANDS or re.search(r"\\[^a-zA-Z]|\\$|[0-9]_|\)_", text):
        return False
    if text.count("|") > MAX_BARS or re.search(rf"[0-9.]{{{MAX_DIGITS + 1}}}", text):
        return False
    return 0 <= bracket_depth(text) <= MAX_DEPTH and _powers_are_small(text)


def _powers_are_small(text: str) -> bool:
    """Whether exponents contain no power of numbers and no large number."""
    closings: list[int] = []  # number of brackets open around each exponent
    depth, product = 0, 1
    for found in re.finditer(r"[0-9]+|[({\[]|[)}\]]|\^", text):
        token, start = found[0], found.start()
        follows_power = text[max(0, start - 1)] == "^" and start > 0
        if token in "({[":
            if follows_power:
                closings.append(depth)
            depth += 1
        elif token in ")}]":
            depth -= 1
            if closings and closings[-1] == depth:
                closings.pop()
        elif token == "^":
            if closings and re.match(r"[0-9)}\]]\^[-({\[]*[0-9(]", text[max(0, start - 1) :]):
                return False
        elif closings or follows_power:
            product *= max(1, int(token))
    return product <= MAX_EXPONENT and text.count("^") <= MAX_POWERS and not re.search(r"\^[^({\\]\^", text)


def may_simplify(text: str) -> bool:
    """Whether the algebra system may evaluate the text: small numbers, no power of a power, no large exponent."""
    if re.search(rf"[0-9]{{{MAX_ALGEBRA_DIGITS + 1}}}", text) or re.search(r"\^(?:[0-9a-zA-Z]\^|\{[^{}]*\^)", text):
        return False
    return not re.search(r"\^\{[^{}]*[0-9]{2}|\)\^", text)


def bracket_depth(text: str) -> int:
    """Depth of the brackets; -1 if they do not match."""
    deepest = depth = 0
    for character in text:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if depth < 0:
            return -1
        deepest = max(deepest, depth)
    return deepest if depth == 0 else -1


class TimeLimit:
    """Limit on the processor time of one comparison, shared by its calls, so that a busy machine changes no verdict.

    It starts with the first call, so imports do not count. The clock ends it after BUSY_FACTOR times as long.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._started: tuple[float, float] | None = None  # processor time and clock

    def left_s(self) -> float:
        """Seconds left; negative when time is up."""
        now = time.process_time(), time.monotonic()
        busy, clock = self._started = self._started or now
        return self._seconds - max(now[0] - busy, (now[1] - clock) / BUSY_FACTOR)


def run_within(limit: TimeLimit, function: Callable[[], bool]) -> bool:
    """The result of function(), or False if it raises or is not done in time.

    The function runs in a thread of its own while the caller waits. This works in any thread and uses no signals, which
    the grader's child needs for its kernel timer. When time is up the thread is asked to stop; Python code does.
    """
    if limit.left_s() <= 0:
        return False
    answers: list[bool] = []

    def answer() -> None:
        try:
            answers.append(function())
        except (Exception, TimeUpError):  # noqa: BLE001  whatever libraries raise on untrusted text is "not equal"
            return

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    while thread.is_alive() and (left_s := limit.left_s()) > 0:
        thread.join(left_s)
    for _ in range(STOP_ATTEMPTS):
        if not thread.is_alive() or thread.ident is None:
            break
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(TimeUpError))
        thread.join(STOP_EVERY_S)
    return bool(answers and answers[0])
