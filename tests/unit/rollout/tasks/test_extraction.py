"""Extraction of reference answers from the text of an answer column."""

import random
import re

import pytest

from rollout.tasks.data_sets import Extraction, extract_answer, last_boxed


@pytest.mark.parametrize(
    ("text", "extraction", "answer"),
    [
        (" 204\n", "plain", "204"),
        ("", "plain", None),
        (" \n", "plain", None),
        ("She has 3+4=<<3+4=7>>7.\n#### 7", "hashes", "7"),
        ("#### 1\n#### 1,200 ", "hashes", "1,200"),
        ("The answer is 7", "hashes", None),
        ("####7", "hashes", None),
        (r"so \boxed{3} and then $\boxed{\frac{1}{2}}$.", "boxed", r"\frac{1}{2}"),
        (r"\boxed{\text{a } b}", "boxed", r"\text{a } b"),
        (r"\boxed{\{1, 2\}}", "boxed", r"\{1, 2\}"),
        (r"\boxed{\left\{ x \right.}", "boxed", r"\left\{ x \right."),
        (r"\boxed{\boxed{5}}", "boxed", "5"),
        (r"a } b { c \boxed{2}", "boxed", "2"),
        (r"first \boxed{1}, then \boxed{2 {3}", "boxed", "1"),
        (r"\boxed{}", "boxed", None),
        ("204", "boxed", None),
        ("204", "boxed_or_plain", "204"),
        (r"It is \boxed{204}.", "boxed_or_plain", "204"),
        (r"It is \boxed{204", "boxed_or_plain", None),
    ],
)
def test_answer_of_a_text(text: str, extraction: Extraction, answer: str | None) -> None:
    assert extract_answer(text, extraction) == answer


def reference_last_boxed(text: str) -> str | None:
    """The last box, found by trying every end of every \\boxed{ from the last; escaped braces are blanked first."""
    blanked = re.sub(r"\\[{}\\]", "##", text)
    for begin in reversed([match.end() for match in re.finditer(r"\\boxed\{", blanked)]):
        for end in range(begin, len(blanked)):
            inside = blanked[begin:end]
            depths = [inside[:cut].count("{") - inside[:cut].count("}") for cut in range(len(inside) + 1)]
            if blanked[end] == "}" and depths[-1] == 0 and min(depths) == 0:
                return text[begin:end]
    return None


def test_last_boxed_equals_a_search_of_all_pairs() -> None:
    rng = random.Random(0)
    pieces = ["\\boxed{", "{", "}", "}", "\\{", "\\}", "\\frac", "x", " ", "\\\\ "]
    texts = ["".join(rng.choices(pieces, k=rng.randint(1, 14))) for _ in range(3000)]
    found = [last_boxed(text) for text in texts]
    assert found == [reference_last_boxed(text) for text in texts]
    assert sum(answer is not None for answer in found) > 300


@pytest.mark.timeout(60)  # a quadratic search takes hours
@pytest.mark.parametrize("text", ["\\boxed{" * 200_000, "{" * 1_000_000, "\\boxed{}" * 200_000])
def test_text_of_a_megabyte_of_braces_is_read_once(text: str) -> None:
    assert extract_answer(text, "boxed") is None
