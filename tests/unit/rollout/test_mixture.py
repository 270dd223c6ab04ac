"""Turns of sources: exact shares over every stretch, a pure function of weights and position."""

from collections import Counter

import pytest

from rollout.contract import Prompt
from rollout.prompts import Interleave, PromptStream
from rollout.tasks import Problem

WEIGHTS = [[1.0], [1.0, 1.0], [3.0, 1.0], [0.7, 0.2, 0.1], [1.0, 2.5, 0.3, 4.0], [1.0] * 7, [0.001, 1.0]]


def problems_of(**sizes: int) -> list[Problem]:
    return [
        Problem(text=f"{source} {number}", reference_answer=str(number), source=source)
        for source, size in sizes.items()
        for number in range(size)
    ]


def prompts(stream: PromptStream, start: int, end: int) -> list[Prompt]:
    return [stream.prompt_at(position) for position in range(start, end)]


def encode(text: str) -> list[int]:
    return [ord(character) for character in text]


@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_every_prefix_keeps_within_one_turn_of_the_exact_shares(weights: list[float]) -> None:
    turns = Interleave(weights)
    counts = [0] * len(weights)
    for position in range(3000):
        source, earlier = turns.turn(position)
        assert earlier == counts[source], "turns of a source are counted without a gap"
        counts[source] += 1
        shares = [weight / sum(weights) * (position + 1) for weight in weights]
        assert max(abs(count - share) for count, share in zip(counts, shares, strict=True)) <= 1.0


def test_equal_parts_alternate_and_periods_are_short() -> None:
    assert [Interleave([1.0, 1.0]).turn(position)[0] for position in range(6)] == [0, 1, 0, 1, 0, 1]
    assert [Interleave([3.0, 1.0]).turn(position)[0] for position in range(8)] == [0, 0, 1, 0, 0, 0, 1, 0]
    assert Interleave([0.7, 0.2, 0.1]).period == 10
    assert Interleave([5.0, 5.0]).period == 2


def test_a_turn_does_not_depend_on_what_was_asked_before() -> None:
    ascending, late = Interleave([0.7, 0.2, 0.1]), Interleave([0.7, 0.2, 0.1])
    expected = [ascending.turn(position) for position in range(50)]
    assert [late.turn(position) for position in reversed(range(50))] == expected[::-1]
    assert late.turn(10**15) == (expected[0][0], expected[0][1] + 7 * 10**14)


@pytest.mark.parametrize("weights", [[], [0.0], [1.0, -1.0]], ids=str)
def test_weights_that_share_out_nothing_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        Interleave(weights)


def test_equal_parts_whatever_the_sizes() -> None:
    stream = PromptStream(problems_of(small=5, large=500), encode, seed=1)
    counts = Counter(prompt.source for prompt in prompts(stream, 0, 1000))
    assert counts == {"small": 500, "large": 500}
    visits = Counter(prompt.text for prompt in prompts(stream, 0, 1000))
    assert {text: visits[text] for text in visits if text.startswith("small")} == {f"small {n}": 100 for n in range(5)}
    assert all(visits[f"large {number}"] == 1 for number in range(500))


def test_each_source_passes_over_its_own_rows_in_an_order_of_its_own() -> None:
    stream = PromptStream(problems_of(a=8, b=8), encode, seed=1, weights={"a": 3.0, "b": 1.0})
    drawn = [prompt.text for prompt in prompts(stream, 0, 64)]
    first, second = ([text for text in drawn if text.startswith("a")][start : start + 8] for start in (0, 8))
    assert sorted(first) == sorted(second) == [f"a {number}" for number in range(8)]
    assert first != second
    numbers = [[text.split()[1] for text in drawn if text.startswith(source)][:8] for source in "ab"]
    assert numbers[0] != numbers[1]


def test_a_source_keeps_its_order_when_another_joins() -> None:
    two = PromptStream(problems_of(a=9, b=4), encode, seed=5)
    three = PromptStream(problems_of(a=9, c=30, b=4), encode, seed=5)
    orders = [[p.text for p in prompts(stream, 0, 60) if p.source == "a"][:9] for stream in (two, three)]
    assert orders[0] == orders[1]


def test_one_source_has_the_order_it_always_had() -> None:
    stream = PromptStream(problems_of(numbers=6), encode, seed=3)
    # pinned: random.Random("prompts:3:<pass>").shuffle(range(6))
    assert [prompt.reference_answer for prompt in prompts(stream, 0, 12)] == list("240135230541")


def test_a_stream_that_begins_where_a_resume_does_goes_on_alike() -> None:
    sources = problems_of(a=5, b=7)
    undisturbed = prompts(PromptStream(sources, encode, seed=0, weights={"b": 2.0}), 0, 40)
    resumed = prompts(PromptStream(sources, encode, seed=0, weights={"b": 2.0}), 17, 40)
    assert [(p.position, p.text) for p in resumed] == [(p.position, p.text) for p in undisturbed[17:]]
