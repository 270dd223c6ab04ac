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


class _NoNumberError(ValueError):
    """Error for a text that is not a rational number, or too large a one."""


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
        if reader.rest():
            return None
    except (_NoNumberError, ZeroDivisionError):
        return None
    return value


def is_calculation(text: str) -> bool:
    """Whether the text has a sum, difference or product that is not worked out; scientific notation is a number."""
    if _SCIENTIFIC.fullmatch(text):
        return False
    return bool(_CALCULATION.search(_TIMES_POWER_OF_TEN.sub("", text)))


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise _NoNumberError
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent) > MAX_BITS:
        raise _NoNumberError
    return _bounded(base ** int(exponent))


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise _NoNumberError
    return value


class _Reader:
    """Recursive-descent parser of sums of products of signed powers of digits, fractions and brackets."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0

    def rest(self) -> str:
        return self._text[self._position :]

    def sum(self, *, depth: int) -> Fraction:
        if depth > MAX_DEPTH:
            raise _NoNumberError
        value = self._product(depth=depth)
        while True:
            if self._take("+"):
                value = _bounded(value + self._product(depth=depth))
            elif self._take("-"):
                value = _bounded(value - self._product(depth=depth))
            else:
                return value

    def _product(self, *, depth: int) -> Fraction:
        sign = -1 if self._take("-") else 1
        self._take("+")
        value = self._mixed(depth=depth)
        while True:
            if self._take(r"\cdot") or self._take(r"\times"):
                value = _bounded(value * self._signed(depth=depth))
            elif self._take("/") or self._take(r"\div"):
                value = _bounded(value / self._signed(depth=depth))
            elif self.rest().startswith("("):
                value = _bounded(value * self._factor(depth=depth))
            else:
                return sign * value

    def _signed(self, *, depth: int) -> Fraction:
        sign = -1 if self._take("-") else 1
        return sign * self._factor(depth=depth)

    def _mixed(self, *, depth: int) -> Fraction:
        """A factor, or a mixed number: digits with a fraction directly behind them."""
        begins_with_integer = re.match(r"[0-9]+\\frac", self.rest())
        value = self._factor(depth=depth)
        return value + self._factor(depth=depth) if begins_with_integer else value

    def _factor(self, *, depth: int) -> Fraction:
        value = self._atom(depth=depth)
        return _power(value, self._exponent(depth=depth)) if self._take("^") else value

    def _exponent(self, *, depth: int) -> Fraction:
        if self.rest().startswith(("{", "(")):
            return self._atom(depth=depth)
        digit = self.rest()[:1]
        if digit not in tuple("0123456789"):
            raise _NoNumberError
        self._position += 1
        return Fraction(digit)

    def _atom(self, *, depth: int) -> Fraction:
        digits = _DIGITS.match(self._text, self._position)
        if digits:
            self._position = digits.end()
            return Fraction(digits[0].rstrip("."))
        if self._take(r"\frac"):
            numerator = self._bracketed("{", "}", depth=depth)
            return _bounded(numerator / self._bracketed("{", "}", depth=depth))
        closing = {"(": ")", "{": "}"}.get(self.rest()[:1])
        if closing is None:
            raise _NoNumberError
        return self._bracketed(self.rest()[0], closing, depth=depth)

    def _bracketed(self, opening: str, closing: str, *, depth: int) -> Fraction:
        if not self._take(opening):
            raise _NoNumberError
        value = self.sum(depth=depth + 1)
        if not self._take(closing):
            raise _NoNumberError
        return value

    def _take(self, token: str) -> bool:
        taken = self._text.startswith(token, self._position)
        self._position += len(token) if taken else 0
        return taken
