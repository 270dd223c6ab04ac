"""Format and answer reward against the paper's cases (eq. 9-11)."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.rewards import answer_reward, format_reward

FULL = "<think>a</think><answer>42</answer>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (FULL, 1.0),
        ("<think>a\nb</think> \n\t <answer>4\n2</answer>", 1.0),
        (f"  {FULL}\n", 1.0),
        ("<think></think><answer></answer>", 1.0),
        ("<think>1 < 2 > 0</think><answer>42</answer>", 1.0),
        ("<think>a</think>so<answer>42</answer>", 0.5),  # text between the blocks
        ("<think>a<answer>42</answer>", 0.5),
        ("<think>a</think>42</answer>", 0.5),
        ("<think>a</think><answer>1</answer><answer>2</answer>", 0.5),  # two answers
        ("<think>a</think><think>b</think><answer>2</answer>", 0.5),
        ("<think>a<think>b</think><answer>2</answer>", 0.5),
        ("<think>a<answer>2</answer></think></answer>", 0.5),
        ("<think></answer>", 0.5),
        ("<think>a</think><answer>42", 0.25),  # cut off
        ("a</think><answer>42</answer>", 0.25),
        (f"Well. {FULL}", 0.25),
        (f"{FULL} Done.", 0.25),
        ("<answer>42</answer><think>a</think>", 0.0),
        ("", 0.0),
        ("42", 0.0),
        ("<THINK>a</THINK><ANSWER>42</ANSWER>", 0.0),
    ],
)
def test_format_reward(text: str, expected: float) -> None:
    assert format_reward(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (FULL, 1.0),
        ("<answer> 42 </answer>", 1.0),  # the format costs the format's part only
        ("<answer>42</answer> and more", 1.0),
        ("<answer>41</answer><answer>42</answer>", 0.0),  # the first block counts
        ("<answer>42", 0.0),
        ("42</answer>", 0.0),
        ("</answer>42<answer>", 0.0),
        ("<think>42</think>", 0.0),
        ("", 0.0),
    ],
)
def test_answer_reward(text: str, expected: float) -> None:
    assert answer_reward(text, "42") == expected


piece = st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", " ", "42", "x"])
pieces = st.lists(piece, max_size=12).map("".join)


@settings(deadline=None, max_examples=300)
@given(text=pieces)
def test_rewards_take_only_the_papers_values_and_full_format_contains_each_tag_once(text: str) -> None:
    reward = format_reward(text)
    assert reward in (0.0, 0.25, 0.5, 1.0)
    assert answer_reward(text, "42") in (0.0, 1.0)
    if reward == 1.0:
        stripped = text.strip()
        assert stripped.startswith("<think>")
        assert stripped.endswith("</answer>")
        assert [stripped.count(tag) for tag in ("<think>", "</think>", "<answer>", "</answer>")] == [1, 1, 1, 1]


LONG = " " * 1_000_000


@pytest.mark.parametrize("text", ["<think>" * 200_000, f"<think>{LONG}</answer>", f"<think>a</think>{LONG}x<answer>"])
def test_long_texts_cost_linear_time(text: str) -> None:
    start = time.process_time()
    assert format_reward(text) < 1.0
    assert answer_reward(text, "42") == 0.0
    assert time.process_time() - start < 2.0
