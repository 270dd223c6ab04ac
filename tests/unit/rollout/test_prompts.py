"""The prompt stream: deterministic in (seed, position), reshuffled every pass, whatever was asked before."""

from collections.abc import Iterable

import numpy as np
import pytest

from rollout.contract import Prompt
from rollout.prompts import PromptStream, prompt_encoder
from rollout.tasks import Problem

PROBLEMS = [Problem(text=f"{number}?", reference_answer=str(number), source="numbers") for number in range(7)]


def encode(text: str) -> list[int]:
    return [ord(character) for character in text]


def stream(*, seed: int = 3) -> PromptStream:
    return PromptStream(PROBLEMS, encode, seed=seed)


def prompts_at(positions: Iterable[int], *, seed: int = 3) -> list[Prompt]:
    one = stream(seed=seed)
    return [one.prompt_at(position) for position in positions]


def texts(prompts: list[Prompt]) -> list[str]:
    return [prompt.text for prompt in prompts]


def test_every_pass_visits_every_problem_once_in_an_order_of_its_own() -> None:
    prompts = prompts_at(range(21))
    passes = [texts(prompts[start : start + 7]) for start in (0, 7, 14)]
    assert all(sorted(visited) == [problem.text for problem in PROBLEMS] for visited in passes)
    assert len({tuple(visited) for visited in passes}) == 3


def test_prompt_carries_its_position_tokens_and_reference() -> None:
    prompt = stream().prompt_at(9)
    assert prompt.index == 9
    assert prompt.token_ids.dtype == np.int32
    assert prompt.token_ids.tolist() == encode(prompt.text)
    assert prompt.text == f"{prompt.reference_answer}?"


def test_prompt_at_does_not_depend_on_what_was_asked_before() -> None:
    ascending, descending = prompts_at(range(20)), prompts_at(reversed(range(20)))
    assert texts(ascending) == texts(descending)[::-1]
    assert texts(prompts_at(range(5, 20))) == texts(ascending)[5:]  # a stream that begins where a resume does


def test_another_seed_gives_another_order() -> None:
    assert texts(prompts_at(range(7), seed=1)) != texts(prompts_at(range(7), seed=2))


def test_empty_task_and_negative_position_are_refused() -> None:
    with pytest.raises(ValueError, match="no problems"):
        PromptStream([], encode, seed=0)
    with pytest.raises(AssertionError, match="position -1"):
        stream().prompt_at(-1)


def test_prompt_encoder_adds_no_special_tokens() -> None:
    class Tokenizer:
        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            return [1, *encode(text)] if add_special_tokens else encode(text)

    assert prompt_encoder(Tokenizer())("ab") == [97, 98]
