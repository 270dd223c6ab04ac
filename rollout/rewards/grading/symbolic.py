"""Equality of expressions that are spelled differently; the only module that loads math-verify and sympy.

In: two expressions in the dialect of spelling.py. Out: a bool. math-verify's parser reads them. Their values at fixed
points decide if they can be computed; nothing is evaluated, expanded or simplified for it. Otherwise math-verify's
comparison decides. Texts that could be expensive (limits.py) are not equal.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify
from mpmath import MPContext

from rollout.rewards.grading.limits import TimeLimit, may_parse, may_simplify, run_within

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own time limit is off

DIGITS = 50  # precision of values
CLOSE = 1e-30  # relative difference below which values are equal
NOTHING = 1e-45  # size below which a sum of terms that cancel is 0
REAL = 1e-40  # imaginary part, relative to the value, below which a number is real
MAX_EXPONENT_BITS = 1e5  # bits of a power's value
MIN_POINTS = 2  # points at which both must have values if there are variables
# Values of the first, second, ... variable: no special numbers, and several signs, so that sqrt(x^2) is not x.
POINTS = (
    (0.7390851, 1.3247179, 0.5671433, 1.9021605, 0.2614972, 1.6616879),
    (1.4513692, 0.6434105, 1.7632228, 0.3605246, 1.1319882, 0.8346268),
    (2.5029078, 3.3598856, 0.1100010, 1.2020569, 4.6692016, 0.9159656),
    (-0.8705883, 1.7052111, -1.0986858, 0.5432589, -0.6079271, 2.2955871),
    (-1.6066951, -0.3532363, 2.0780869, -1.4560749, 0.7647836, -0.4198600),
    (-2.3979455, -1.2824271, -0.7475979, 1.8519370, -1.1865691, 1.5849625),
)

_FUNCTIONS = {
    "sin": "sin", "cos": "cos", "tan": "tan", "cot": "cot", "sec": "sec", "csc": "csc", "asin": "asin", "acos": "acos",
    "atan": "atan", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "exp": "exp", "Abs": "fabs", "floor": "floor",
    "ceiling": "ceil",
}  # fmt: skip
_NO_VALUES = (sympy.zoo, sympy.nan)


class _UndecidedError(ValueError):
    """Error for an expression whose value at a point cannot be computed cheaply."""


def same_expression(left: str, right: str, *, limit: TimeLimit) -> bool:
    """Whether both expressions have the same value for every value of their variables."""
    if not (may_parse(left) and may_parse(right)):
        return False
    return run_within(limit, lambda: _same_values(left, right))


def same_relation(left: tuple[str, str], right: tuple[str, str], sign: str, *, limit: TimeLimit) -> bool:
    """Whether two relations hold for the same values, because one is a multiple of the other; each has two sides.

    The factor must be positive for inequalities, and may be any number but 0 for equations.
    """
    if not all(map(may_parse, (*left, *right))):
        return False
    return run_within(limit, lambda: _same_relation(left, right, sign))


def _same_values(left: str, right: str) -> bool:
    trees = _parsed(left), _parsed(right)
    names = _variables(trees)
    decided = 0
    for values in _values(trees, names):
        real = [abs(value.imag) <= REAL * abs(value) for value in values]
        if names and real[0] != real[1]:
            continue  # outside the domain of one of them, as log(x^2) and 2 log(x) at -1
        if not _close(*values):
            return False
        decided += 1
    if decided >= (MIN_POINTS if names else 1):
        return True
    if any(tree.has(*_NO_VALUES) for tree in trees) or not (may_simplify(left) and may_simplify(right)):
        return False
    return bool(verify(trees[1], trees[0], timeout_seconds=None, float_rounding=DIGITS))


def _same_relation(left: tuple[str, str], right: tuple[str, str], sign: str) -> bool:
    trees = [_parsed(text) for text in (*left, *right)]
    differences = [(one - two, three - four) for one, two, three, four in _values(trees, _variables(trees))]
    ratios = [ours / theirs for ours, theirs in differences if theirs != 0]
    if len(ratios) < MIN_POINTS or not all(_close(ratio, ratios[0]) for ratio in ratios) or not abs(ratios[0]) > CLOSE:
        return False
    is_positive = ratios[0].real > 0 and abs(ratios[0].imag) <= REAL * abs(ratios[0])
    return sign in ("=", r"\neq") or bool(is_positive)


@lru_cache(maxsize=256)  # the reference of a group is parsed once
def _parsed(text: str) -> Any:
    return latex2sympy(text, normalization_config=None, conversion_config=ConversionConfig(lowercase_symbols=False))


def _variables(trees: Iterable[Any]) -> list[str]:
    return sorted({symbol.name for tree in trees for symbol in tree.free_symbols} - {"i", "e"})


def _values(trees: Sequence[Any], names: list[str]) -> Iterator[list[Any]]:
    """The values of all trees at each point at which they can be computed; one point if there are no variables."""
    if len(names) > len(POINTS[0]):
        return
    for values in POINTS if names else POINTS[:1]:
        context = MPContext()  # a new one: threads share mpmath's own, and an interrupted function leaves it changed
        context.dps = DIGITS
        point = dict(zip(names, values, strict=False))
        try:
            found = [_value(tree, point, context) for tree in trees]
        except (_UndecidedError, ZeroDivisionError, OverflowError):
            continue
        yield found


def _close(left: Any, right: Any) -> bool:
    larger = max(abs(left), abs(right))
    if larger == 0:
        return True
    if left == 0 or right == 0:
        return bool(larger < NOTHING)
    return bool(abs(left - right) <= CLOSE * larger)


def _value(tree: Any, point: dict[str, float], context: Any) -> Any:
    """The complex value of an unevaluated expression; _UndecidedError if it cannot be computed cheaply."""

    def value(node: Any) -> Any:
        return _value(node, point, context)

    if isinstance(tree, sympy.Symbol):
        return context.mpc({"i": context.j, "e": context.e}.get(tree.name) or point[tree.name])
    if isinstance(tree, sympy.Float):
        return context.mpc(context.mpf(str(tree)))  # 0.1 as it was written, not its nearest binary number
    if isinstance(tree, sympy.Rational):
        return context.mpc(context.mpf(tree.p) / tree.q)
    name = type(tree).__name__
    constants = {"Pi": context.pi, "Exp1": context.e, "ImaginaryUnit": context.j}
    if name in constants:
        return context.mpc(constants[name])
    if isinstance(tree, sympy.Add):
        return _sum(map(value, tree.args), context)
    if isinstance(tree, sympy.Mul):
        return context.fprod(map(value, tree.args))
    if isinstance(tree, sympy.Pow):
        return _power(value(tree.base), value(tree.exp), context)
    if name == "exp":
        return _power(context.mpc(context.e), value(tree.args[0]), context)
    if name == "log":
        return _logarithm(list(map(value, tree.args)), context)
    if name == "UnevaluatedExpr":
        return value(tree.args[0])
    if name in _FUNCTIONS and len(tree.args) == 1:
        function: Callable[[Any], Any] = getattr(context, _FUNCTIONS[name])
        argument = value(tree.args[0])
        if abs(argument) > MAX_EXPONENT_BITS:
            raise _UndecidedError
        return context.mpc(function(argument))
    raise _UndecidedError


def _sum(terms: Iterable[Any], context: Any) -> Any:
    """The sum of the terms; exactly 0 if they cancel, so that it compares with 0."""
    terms = list(terms)
    total = context.fsum(terms)
    return context.mpc(0) if abs(total) <= NOTHING * max(map(abs, terms)) else context.mpc(total)


def _power(base: Any, exponent: Any, context: Any) -> Any:
    if base == 0 and exponent.real <= 0:
        raise _UndecidedError
    if base != 0 and abs(exponent) * (abs(context.log(abs(base), 2)) + 1) > MAX_EXPONENT_BITS:
        raise _UndecidedError
    is_odd_root = base.imag == 0 and base.real < 0 and exponent.imag == 0 and abs(exponent.real) < 1
    if is_odd_root:
        root = 1 / exponent.real
        if abs(root - context.nint(root)) < CLOSE and int(context.nint(root)) % 2 == 1:
            return -context.mpc(context.power(-base.real, exponent.real))  # the real cube root of -8 is -2
    return context.mpc(context.power(base, exponent))


def _logarithm(values: list[Any], context: Any) -> Any:
    if 0 in values:
        raise _UndecidedError
    logs = [context.log(value) for value in values]
    return context.mpc(logs[0] if len(logs) == 1 else logs[0] / logs[1])
