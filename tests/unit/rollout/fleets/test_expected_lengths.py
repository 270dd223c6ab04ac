"""Expected lengths: what is known of a problem goes before what is known of its source."""

import pytest
from fake_engines import prompt_of

from rollout.fleets.expected_lengths import ExpectedLengths


def test_a_problem_seen_before_is_expected_to_be_as_long_again_and_a_new_one_like_its_source() -> None:
    lengths = ExpectedLengths()
    lengths.observe(prompt_of(0, text="long"), num_tokens=80, num_completions=2)
    lengths.observe(prompt_of(1, text="short"), num_tokens=8, num_completions=2)
    lengths.observe(prompt_of(2, text="other", source="proofs"), num_tokens=120, num_completions=2)

    # A later pass meets the same problems at other positions of the stream.
    assert lengths.expected(prompt_of(10, text="long"), max_new_tokens=64) == 40.0
    assert lengths.expected(prompt_of(11, text="short"), max_new_tokens=64) == 4.0
    assert lengths.expected(prompt_of(12, text="new"), max_new_tokens=64) == pytest.approx(0.9 * 40.0 + 0.1 * 4.0)
    assert lengths.expected(prompt_of(13, text="new", source="proofs"), max_new_tokens=64) == 60.0


def test_nothing_is_expected_beyond_the_limit_and_half_of_it_where_nothing_is_known() -> None:
    lengths = ExpectedLengths()
    assert lengths.expected(prompt_of(0), max_new_tokens=64) == 32.0
    lengths.observe(prompt_of(0), num_tokens=100, num_completions=2)
    assert lengths.expected(prompt_of(0), max_new_tokens=16) == 16.0


def test_expectations_follow_a_policy_whose_completions_grow() -> None:
    lengths = ExpectedLengths()
    for length in (10, 20, 20, 20, 20):
        lengths.observe(prompt_of(0), num_tokens=2 * length, num_completions=2)
    known = lengths.expected(prompt_of(0), max_new_tokens=64)
    assert 19.0 < known < 20.0
    assert 10.0 < lengths.expected(prompt_of(1), max_new_tokens=64) < known


def test_of_more_problems_than_fit_the_latest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rollout.fleets.expected_lengths.MOST_PROBLEMS", 3)
    lengths = ExpectedLengths()
    for index, length in enumerate((10, 20, 30)):
        lengths.observe(prompt_of(index, text=str(length)), num_tokens=2 * length, num_completions=2)
    lengths.observe(prompt_of(3, text="10"), num_tokens=20, num_completions=2)  # seen again
    lengths.observe(prompt_of(4, text="40"), num_tokens=80, num_completions=2)
    of_source = lengths.expected(prompt_of(5, text="new"), max_new_tokens=64)
    expected = [lengths.expected(prompt_of(6, text=text), max_new_tokens=64) for text in ("10", "20", "30", "40")]
    assert expected == [10.0, of_source, 30.0, 40.0]
