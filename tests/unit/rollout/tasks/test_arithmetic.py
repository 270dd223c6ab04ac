"""The arithmetic task: its split, its prompts, and the flaws of its demonstrations."""

import random
from collections import Counter

import pytest

from configs.tasks import ArithmeticTaskConfig
from rollout.rewards import answer_reward, format_reward
from rollout.tasks import build_task
from rollout.tasks.arithmetic import (
    MAX_HELD_OUT,
    ArithmeticTask,
    DemonstrationFlaws,
    Sum,
    demonstration_sums,
    poor_demonstration,
    scratchpad_completion,
    shuffled_sums,
)

NO_FLAWS = DemonstrationFlaws(guess_share=0.0, forgotten_carry_share=0.0, missing_tag_share=0.0)


def test_problem_is_the_prompt_with_chat_tags_and_the_sum() -> None:
    problem = Sum(first=17, second=25).problem()
    assert problem.text == "<|user|>17+25=<|assistant|>"
    assert problem.reference_answer == "42"


@pytest.mark.parametrize("held_out", [1, 400, 4000])
def test_split_covers_all_8100_problems_without_overlap(held_out: int) -> None:
    task = build_task(ArithmeticTaskConfig(name="arithmetic", held_out=held_out))
    held = {problem.text for problem in task.eval_sets()["arithmetic"]}
    trained = {problem.text for problem in task.train_problems()}
    assert len(held) == held_out
    assert len(trained) == 8100 - held_out
    assert not held & trained


def test_held_out_problems_are_the_same_for_every_run_and_nested() -> None:
    small, large = (ArithmeticTask(held_out=n).eval_sets()["arithmetic"] for n in (3, 400))
    assert small == large[:3]
    assert [problem.reference_answer for problem in small] == ["110", "73", "117"]  # pinned: 17+93, 48+25, 88+29


@pytest.mark.parametrize("held_out", [0, 4001])
def test_held_out_beyond_the_bounds_is_refused(held_out: int) -> None:
    with pytest.raises(ValueError, match=f"held_out={held_out}"):
        ArithmeticTask(held_out=held_out)


def test_demonstrations_avoid_whatever_can_be_held_out() -> None:
    held = {problem.text for problem in ArithmeticTask(held_out=MAX_HELD_OUT).eval_sets()["arithmetic"]}
    assert not held & {item.problem().text for item in demonstration_sums()}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (17, 25, "<think>7+5=12,1+2+1=4</think><answer>42</answer>"),
        (12, 23, "<think>2+3=5,1+2+0=3</think><answer>35</answer>"),
        (99, 99, "<think>9+9=18,9+9+1=19</think><answer>198</answer>"),
        (10, 10, "<think>0+0=0,1+1+0=2</think><answer>20</answer>"),
    ],
)
def test_scratchpad_adds_digit_by_digit(first: int, second: int, expected: str) -> None:
    assert scratchpad_completion(Sum(first=first, second=second)) == expected


def test_every_scratchpad_earns_the_full_reward() -> None:
    rng = random.Random(0)
    for item in shuffled_sums():
        text = poor_demonstration(item, rng, flaws=NO_FLAWS)
        assert format_reward(text) + answer_reward(text, str(item.total)) == 2.0, text


def test_forgotten_carry_makes_the_answer_ten_too_small() -> None:
    text = scratchpad_completion(Sum(first=17, second=25), carry_remembered=False)
    assert text == "<think>7+5=12,1+2+0=3</think><answer>32</answer>"


def test_guesses_are_off_by_a_little_and_never_right() -> None:
    flaws = DemonstrationFlaws(guess_share=1.0, missing_tag_share=0.0, largest_error=5)
    rng = random.Random(0)
    errors: Counter[int] = Counter()
    for item in demonstration_sums():
        text = poor_demonstration(item, rng, flaws=flaws)
        assert text.startswith("<think></think><answer>")
        errors[int(text.removeprefix("<think></think><answer>").removesuffix("</answer>")) - item.total] += 1
    assert set(errors) == {-5, -4, -3, -2, -1, 1, 2, 3, 4, 5}


def test_the_default_demonstrations_earn_about_a_third_of_the_reward() -> None:
    rng = random.Random(0)
    items = [rng.choice(demonstration_sums()) for _ in range(4000)]
    texts = [poor_demonstration(item, rng, flaws=DemonstrationFlaws()) for item in items]
    answers = [answer_reward(text, str(item.total)) for item, text in zip(items, texts, strict=True)]
    assert 0.6 < (sum(map(format_reward, texts)) + sum(answers)) / len(texts) < 0.8
    share_complete = sum(format_reward(text) == 1.0 for text in texts) / len(texts)
    assert abs(share_complete - 0.25) < 0.03
