"""Comparison of two answers, form by form.

In: two texts. Out: a bool. Exact values and words are compared here; symbolic.py, which alone loads a computer algebra
system, compares expressions of different spelling. Units and names are compared only if both sides have one.
"""

from rollout.rewards.grading.forms import (
    LIST,
    SET,
    UNION,
    Collection,
    Form,
    Named,
    Quantity,
    Relation,
    Words,
    read_form,
)
from rollout.rewards.grading.limits import TimeLimit
from rollout.rewards.grading.spelling import plain_spelling

MAX_FREE_ITEMS = 40  # most items of a list or set of free order; matching takes time quadratic in it


def same_answer(candidate: str, reference: str, *, seconds: float) -> bool:
    """Whether the candidate states the same as the reference; False if this is not decided within the seconds."""
    left, right = plain_spelling(candidate), plain_spelling(reference)
    if left == right:
        return bool(left)
    candidate_form, reference_form = read_form(left), read_form(right)
    if candidate_form is None or reference_form is None:
        return False
    return _same(candidate_form, reference_form, limit=TimeLimit(seconds))


def _same(candidate: Form, reference: Form, *, limit: TimeLimit) -> bool:
    match candidate, reference:
        case Named(), Named():
            if candidate.name == reference.name:
                return _same(candidate.body, reference.body, limit=limit)
            return _same_equation(_equation(candidate), _equation(reference), limit=limit)
        case (Named(), Relation()) | (Relation(), Named()) | (Relation(), Relation()):
            return _same_equation(_equation(candidate), _equation(reference), limit=limit)
        case Named(), _:
            return _same(candidate.body, reference, limit=limit)
        case _, Named():
            return _same(candidate, reference.body, limit=limit)
        case Quantity(), Quantity():
            return _same_quantity(candidate, reference, limit=limit)
        case Words(), Words():
            return candidate.text == reference.text
        case (Words(), Quantity()) | (Quantity(), Words()):
            return _same_letters(candidate, reference, limit=limit)
        case Collection(), Collection():
            return _same_collection(candidate, reference, limit=limit)
        case _:
            return False


def _same_quantity(candidate: Quantity, reference: Quantity, *, limit: TimeLimit) -> bool:
    if candidate.unit and reference.unit and candidate.unit != reference.unit:
        return False
    if candidate.text == reference.text:
        return True
    if candidate.calculation and reference.value is not None and not reference.calculation:
        return False  # `17+25` is not worked out, so it does not state 42
    if candidate.value is not None and reference.value is not None:
        return candidate.value == reference.value
    if not all(form.value is not None or any(map(str.isalpha, form.text)) for form in (candidate, reference)):
        return False  # without a letter it would be a rational number
    from rollout.rewards.grading.symbolic import same_expression

    return same_expression(candidate.text, reference.text, limit=limit)


def _same_letters(candidate: Form, reference: Form, *, limit: TimeLimit) -> bool:
    """Whether words and letters are equal: a bare letter is a choice if the other side is `(C)`; `xy` is y \\cdot x."""
    words, quantity = (candidate, reference) if isinstance(candidate, Words) else (reference, candidate)
    assert isinstance(words, Words), words
    assert isinstance(quantity, Quantity), quantity
    if words.choice:
        return quantity.text.lower() == words.text
    if not words.product or quantity.value is not None:
        return False
    from rollout.rewards.grading.symbolic import same_expression

    return same_expression(words.product, quantity.text, limit=limit)


def _same_collection(candidate: Collection, reference: Collection, *, limit: TimeLimit) -> bool:
    left, right = candidate.items, reference.items
    kinds = {candidate.kind, reference.kind}
    if kinds == {UNION} or kinds == {LIST}:
        return len(left) == len(right) and _matches_all(left, right, limit=limit)
    if kinds <= {LIST, SET}:
        one_way = _each_in(left, right, candidates_first=True, limit=limit)
        return one_way and _each_in(right, left, candidates_first=False, limit=limit)
    if len(kinds) > 1 or len(left) != len(right):
        return False
    return all(_same(one, other, limit=limit) for one, other in zip(left, right, strict=True))


def _matches_all(left: tuple[Form, ...], right: tuple[Form, ...], *, limit: TimeLimit) -> bool:
    """Whether the items can be paired with equal ones, in any order."""
    if len(left) > MAX_FREE_ITEMS:
        return left == right
    remaining = list(right)
    for item in left:
        partner = next((other for other in remaining if _same(item, other, limit=limit)), None)
        if partner is None:
            return False
        remaining.remove(partner)
    return True


def _each_in(items: tuple[Form, ...], others: tuple[Form, ...], *, candidates_first: bool, limit: TimeLimit) -> bool:
    """Whether every item equals one of the others, as in sets, where repetitions do not count."""
    if max(len(items), len(others)) > MAX_FREE_ITEMS:
        return items == others
    return all(
        any(
            _same(item, other, limit=limit) if candidates_first else _same(other, item, limit=limit) for other in others
        )
        for item in items
    )


def _equation(form: Form) -> Relation | None:
    if isinstance(form, Named):
        return Relation(left=form.name, sign="=", right=form.body.text) if isinstance(form.body, Quantity) else None
    return form if isinstance(form, Relation) else None


def _same_equation(candidate: Relation | None, reference: Relation | None, *, limit: TimeLimit) -> bool:
    if candidate is None or reference is None or candidate.sign != reference.sign:
        return False
    from rollout.rewards.grading.symbolic import same_relation

    return same_relation(
        (candidate.left, candidate.right), (reference.left, reference.right), candidate.sign, limit=limit
    )
