"""The prompt stream: deterministic in (seed, position), reshuffled every pass, resumable from an int."""

import numpy as np
import pytest

from rollout.contract import Prompt
from rollout.prompts import PromptStream, prompt_encoder
from rollout.tasks import Problem

PROBLEMS = [Problem(text=f"{number}?", reference_answer=str(number)) for number in range(7)]


def encode(text: str) -> list[int]:
    return [ord(character) for character in text]


def stream(*, seed: int = 3, position: int = 0) -> PromptStream:
    return PromptStream(PROBLEMS, encode, seed=seed, position=position)


def texts(prompts: list[Prompt]) -> list[str]:
    return [prompt.text for prompt in prompts]


def test_every_pass_visits_every_problem_once_in_an_order_of_its_own() -> None:
    prompts = stream().take(21)
    passes = [texts(prompts[start : start + 7]) for start in (0, 7, 14)]
    assert all(sorted(visited) == [problem.text for problem in PROBLEMS] for visited in passes)
    assert len({tuple(visited) for visited in passes}) == 3


def test_prompt_carries_its_position_tokens_and_reference() -> None:
    prompt = stream().prompt_at(9)
    assert prompt.index == 9
    assert prompt.token_ids.dtype == np.int32
    assert prompt.token_ids.tolist() == encode(prompt.text)
    assert prompt.text == f"{prompt.reference_answer}?"


def test_take_continues_from_a_saved_position() -> None:
    undisturbed = stream().take(20)
    first = stream()
    head = first.take(5)
    tail = stream(position=first.position).take(15)
    assert texts(head + tail) == texts(undisturbed)
    assert [prompt.index for prompt in head + tail] == list(range(20))


def test_prompt_at_does_not_depend_on_what_was_asked_before() -> None:
    forward, backward = stream(), stream()
    ascending = [forward.prompt_at(position) for position in range(20)]
    descending = [backward.prompt_at(position) for position in reversed(range(20))]
    assert texts(ascending) == texts(descending)[::-1]
    assert forward.position == 0


def test_another_seed_gives_another_order() -> None:
    assert texts(stream(seed=1).take(7)) != texts(stream(seed=2).take(7))


def test_empty_task_and_negative_position_are_refused() -> None:
    with pytest.raises(ValueError, match="no problems"):
        PromptStream([], encode, seed=0)
    with pytest.raises(ValueError, match="position=-1"):
        stream(position=-1)


def test_prompt_encoder_adds_no_special_tokens() -> None:
    class Tokenizer:
        def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
            return [1, *encode(text)] if add_special_tokens else encode(text)

    assert prompt_encoder(Tokenizer())("ab") == [97, 98]
