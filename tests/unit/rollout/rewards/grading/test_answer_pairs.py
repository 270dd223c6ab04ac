"""Equality of answers: a table of pairs, the examples of docs/grading.md, references of real data sets."""

import json
import random
import re
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from answer_pairs import EQUAL, EQUAL_TO_REFERENCE, UNEQUAL

from rollout.rewards.grading import is_equivalent

ROOT = Path(__file__).resolve().parents[5]
DATA = ROOT.parent / "shared" / "data"
EXAMPLE = re.compile(r"^(\S.*?)  (=|≠)  (.*?)(?:  #.*)?$", re.MULTILINE)


def test_table_is_large_enough() -> None:
    assert sum(map(len, EQUAL.values())) + sum(map(len, UNEQUAL.values())) >= 250


@pytest.mark.parametrize("kind", EQUAL)
def test_equal_pairs(kind: str) -> None:
    wrong = [(left, right) for left, right in EQUAL[kind] if not is_equivalent(left, right)]
    wrong += [(right, left) for left, right in EQUAL[kind] if not is_equivalent(right, left)]
    assert wrong == []


@pytest.mark.parametrize("kind", UNEQUAL)
def test_unequal_pairs(kind: str) -> None:
    wrong = [(left, right) for left, right in UNEQUAL[kind] if kind != "calculations" and is_equivalent(right, left)]
    wrong += [(left, right) for left, right in UNEQUAL[kind] if is_equivalent(left, right)]
    assert wrong == []


@pytest.mark.parametrize(("candidate", "reference"), EQUAL_TO_REFERENCE)
def test_result_may_stand_for_a_calculation_but_not_the_other_way_round(candidate: str, reference: str) -> None:
    assert is_equivalent(candidate, reference)
    assert not is_equivalent(reference, candidate)


def test_examples_of_the_documentation_hold() -> None:
    text = (ROOT / "docs" / "grading.md").read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```text\n(.*?)```", text, re.DOTALL))
    examples = EXAMPLE.findall(blocks)
    assert len(examples) >= 60
    wrong = [row for row in examples if is_equivalent(row[0].strip(), row[2].strip()) != (row[1] == "=")]
    assert wrong == []


def references(*names: str) -> list[str]:
    """The reference answers of data sets, in order."""
    found = []
    for name in names:
        for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            answer = row["final_answer"] if "final_answer" in row else row["answer"]
            found.append(answer.split("####")[-1].strip())
    return found


needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the copies of the data sets are not at hand")
SETS = ("gsm8k_train", "gsm8k_test", "math500_test", "aime24_test", "aime25_test", "deepmath_sample")


@needs_data
def test_every_reference_equals_itself_and_itself_as_models_write_it() -> None:
    answers = references(*SETS)
    assert len(answers) > 9000
    assert [answer for answer in answers if not is_equivalent(answer, answer)] == []
    written = [(f"$ {answer} $", answer) for answer in dict.fromkeys(answers)]
    written += [(rf"\boxed{{{answer}}}", answer) for answer in dict.fromkeys(answers)]
    assert [pair for pair in written if not is_equivalent(*pair)] == []


def plain_value(answer: str) -> Decimal | None:
    """The value of a plain number with or without commas, read by the standard library."""
    text = answer.replace(",", "")
    return Decimal(text) if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", text) else None


@needs_data
def test_references_that_differ_in_value_are_refused() -> None:
    numbers = sorted({value for value in map(plain_value, references(*SETS)) if value is not None})
    spelled = {value: answer for answer in references(*SETS) if (value := plain_value(answer)) is not None}
    choose = random.Random(0)
    accepted = 0
    for _ in range(20_000):
        left, right = choose.sample(numbers, 2)
        accepted += is_equivalent(spelled[left], spelled[right])
    assert accepted == 0


# Pairs of distinct strings among the other references of MATH500 and DeepMath that state the same; found by hand.
SAME_BY_HAND = {frozenset(pair) for pair in ((r"x=5", "5"), (r"30^\circ", "30"), (r"\$36", "36"), (r"36^\circ", "36"))}


@needs_data
def test_other_references_that_differ_are_refused() -> None:
    answers = sorted({a for a in references("math500_test", "deepmath_sample") if plain_value(a) is None})
    choose = random.Random(0)
    pairs = [tuple(choose.sample(answers, 2)) for _ in range(400)]
    accepted = [pair for pair in pairs if is_equivalent(*pair)]
    assert all(frozenset(pair) in SAME_BY_HAND for pair in accepted)


def test_plain_answers_do_not_load_the_algebra_system(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sympy", "math_verify", "rollout.rewards.grading.symbolic"):
        monkeypatch.setitem(sys.modules, name, None)  # an import fails from here on
    for candidate in ("42", "41", "17+25", "17+25=42", "=42", "42,42", "1+", "+", ",", "7+5=12,1+2+1=4", "4 2", "(42)"):
        assert is_equivalent(candidate, "42") == (candidate in ("42", "(42)")), candidate
