"""Equivalence of answers is total on any input, exact for plain numbers, and ends in time; test_answer_pairs.py has the
rest."""

import inspect
import sys
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.rewards.grading import MAX_ANSWER_CHARACTERS, is_equivalent


@pytest.mark.parametrize(
    ("candidate", "reference"),
    [
        ("42", "42"),
        (" 42 ", "42"),
        ("\n42\t", "42"),
        ("042", "42"),
        ("+42", "42"),
        ("42.0", "42"),
        ("42.", "42"),
        (".5", "0.50"),
        ("-0", "0"),
        ("-007.10", "-7.1"),
        ("x  =\n3", "x = 3"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
    ],
)
def test_equivalent(candidate: str, reference: str) -> None:
    assert is_equivalent(candidate, reference)
    assert is_equivalent(reference, candidate)


@pytest.mark.parametrize(
    ("candidate", "reference"),
    [
        ("41", "42"),
        ("-42", "42"),
        ("4 2", "42"),
        ("42x", "42"),
        ("420", "42"),
        ("4.2", "42"),
        ("1,000", "1001"),
        ("4e1", "41"),
        ("", ""),
        ("  ", " "),
        ("", "0"),
        (".", "0"),
        ("-", "0"),
        ("٤٢", "42"),  # other scripts' digits are text
        ("0x2a", "42"),
    ],
)
def test_not_equivalent(candidate: str, reference: str) -> None:
    assert not is_equivalent(candidate, reference)
    assert not is_equivalent(reference, candidate)


@pytest.mark.parametrize("candidate", [None, 42, 4.2, b"42", ["42"], object(), True])
def test_what_is_no_text_is_never_equivalent(candidate: object) -> None:
    assert not is_equivalent(candidate, "42")
    assert not is_equivalent("42", candidate)
    assert not is_equivalent(candidate, candidate)


def test_too_long_an_answer_is_refused_quickly() -> None:
    limit = "9" * MAX_ANSWER_CHARACTERS
    assert is_equivalent(limit, limit)
    start = time.process_time()
    assert not is_equivalent("9" * 50_000_000, "9" * 50_000_000)
    assert time.process_time() - start < 1.0


@settings(deadline=None, max_examples=300)
@given(left=st.text(max_size=20), right=st.text(max_size=20))
def test_any_texts_are_answered_and_symmetric(left: str, right: str) -> None:
    assert is_equivalent(left, right) == is_equivalent(right, left)
    assert is_equivalent(left, left) == bool(left.split())


numbers = st.from_regex(r"\A[+-]?[0-9]{1,6}(\.[0-9]{0,6})?\Z")


@settings(deadline=None, max_examples=500)
@given(left=numbers, right=numbers)
def test_plain_numbers_compare_by_value(left: str, right: str) -> None:
    exact = Fraction(left.rstrip(".")) == Fraction(right.rstrip("."))
    assert is_equivalent(left, right) == exact


def test_nested_answer_does_not_raise_on_a_nearly_full_stack() -> None:
    nested = r"\frac{" * 100 + "1" + "}" * 100

    def called_at(depth: int) -> bool:
        return called_at(depth - 1) if depth else is_equivalent(nested, "x+1")

    assert not called_at(sys.getrecursionlimit() - len(inspect.stack()) - 60)
