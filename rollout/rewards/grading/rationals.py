"""Exact values of numbers in answers: integers, decimals, fractions, mixed numbers, powers, scientific notation.

In: text in the dialect of spelling.py. Out: a Fraction, or None if the text is no rational number or one that is too
large. Knows no roots, no letters and no units.
"""

import re
from fractions import Fraction

MAX_BITS = 20_000  # bits of numerator and denominator; 2^{98} and 10^{1000} are answers, 9^{9^9} is an attack
MAX_DEPTH = 20  # depth of brackets

_THOUSANDS = re.compile(r"[-+]?[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]*)?")
_SCIENTIFIC = re.compile(r"([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))[eE]([-+]?[0-9]{1,6})")
_TIMES_POWER_OF_TEN = re.compile(r"(?:\\times|\\cdot)10\^(?:[0-9]|\{[-+]?[0-9]{1,6}\})$")
_MIXED = re.compile(r"([-+]?)([0-9]+) ([0-9]+)/([0-9]+)")
_DIGITS = re.compile(r"[0-9]+\.?[0-9]*|\.[0-9]+")
_CALCULATION = re.compile(r"\+|\\cdot|\\times|(?<=[0-9a-zA-Z)}\]])-|[0-9)}]\(|\)[0-9]|\\pm|\\mp|\\div|!|\\binom")


def exact_value(text: str) -> Fraction | None:
    """The exact value of a text that is a rational number and nothing else."""
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    mixed = _MIXED.fullmatch(text)
    if mixed:
        sign, whole, numerator, denominator = mixed.groups()
        text = rf"{sign}{whole}\frac{{{numerator}}}{{{denominator}}}"
    try:
        scientific = _SCIENTIFIC.fullmatch(text)
        if scientific:
            return Fraction(scientific[1].rstrip(".")) * _power(Fraction(10), Fraction(scientific[2]))
        reader = _Reader(text)
        value = reader.sum(depth=0)
    except (ValueError, ZeroDivisionError):
        return None
    return None if reader.rest else value


def is_calculation(text: str) -> bool:
    """Whether the text has a sum, difference or product that is not worked out; scientific notation is a number."""
    if _SCIENTIFIC.fullmatch(text):
        return False
    return bool(_CALCULATION.search(_TIMES_POWER_OF_TEN.sub("", text)))


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator != 1 or bits * abs(exponent) > MAX_BITS:
        raise ValueError(exponent)
    return _bounded(base ** int(exponent))


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise ValueError("too large")
    return value


class _Reader:
    """Recursive-descent parser of sums of products of signed powers of digits, fractions and brackets.

    Every method reads from the beginning of `rest`; ValueError where it does not find what it reads.
    """

    def __init__(self, text: str) -> None:
        self.rest = text

    def sum(self, *, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise ValueError(depth)
        value = self._product(depth=depth)
        while operator := self._take("+", "-"):
            term = self._product(depth=depth)
            value = _bounded(value + term if operator == "+" else value - term)
        return value

    def _product(self, *, depth: int) -> Fraction:
        sign = -1 if self._take("-") else 1
        self._take("+")
        is_mixed = re.match(r"[0-9]+\\frac", self.rest)  # digits with a fraction directly behind them
        value = self._factor(depth=depth)
        if is_mixed:
            value += self._factor(depth=depth)
        while (operator := self._take(r"\cdot", r"\times", "/", r"\div")) or self.rest.startswith("("):
            factor_sign = -1 if operator and self._take("-") else 1
            factor = factor_sign * self._factor(depth=depth)
            value = _bounded(value / factor if operator in ("/", r"\div") else value * factor)
        return sign * value

    def _factor(self, *, depth: int) -> Fraction:
        value = self._atom(depth=depth)
        if not self._take("^"):
            return value
        is_bracketed = self.rest.startswith(("{", "("))
        return _power(value, self._atom(depth=depth) if is_bracketed else Fraction(self._take(*"0123456789")))

    def _atom(self, *, depth: int) -> Fraction:
        if digits := _DIGITS.match(self.rest):
            self.rest = self.rest[digits.end() :]
            return Fraction(digits[0].rstrip("."))
        if self._take(r"\frac"):
            numerator = self._bracketed("{", depth=depth)
            return _bounded(numerator / self._bracketed("{", depth=depth))
        return self._bracketed("({", depth=depth)

    def _bracketed(self, openings: str, *, depth: int) -> Fraction:
        closing = {"(": ")", "{": "}", "": ""}[self._take(*openings)]
        value = self.sum(depth=depth + 1) if closing else Fraction()
        if not self._take(closing):
            raise ValueError(self.rest)
        return value

    def _take(self, *tokens: str) -> str:
        """The first of the tokens with which the rest begins, taken from it; "" if there is none."""
        token = next(filter(self.rest.startswith, tokens), "")
        self.rest = self.rest[len(token) :]
        return token
