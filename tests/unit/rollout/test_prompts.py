"""The prompt stream: deterministic in (seed, position), reshuffled every pass, whatever was asked before."""

from collections.abc import Iterable

import numpy as np
import pytest
from tiny_chat_model import tiny_chat_tokenizer

from configs.tasks import SYSTEM_PROMPT, ArithmeticTaskConfig, DataTaskConfig, PromptConfig
from rollout.contract import Prompt
from rollout.prompts import (
    PromptStream,
    PromptStyleError,
    make_prompt,
    prompt_encoder,
    prompt_renderer,
    prompts_fit,
)
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
    assert prompt.position == 9
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


def data_task(**prompt: str) -> DataTaskConfig:
    return DataTaskConfig.model_validate(
        {"name": "custom", "train": {"mine": {"path": "mine.jsonl"}}, "prompt": PromptConfig.model_validate(prompt)}
    )


def test_chat_style_is_the_template_with_system_and_user() -> None:
    tokenizer = tiny_chat_tokenizer()
    text = prompt_renderer(data_task(system="Be brief."), tokenizer)("1+1?")
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    )
    token_ids = prompt_encoder(tokenizer)(text)
    assert tokenizer.decode(token_ids) == text
    assert token_ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 3  # one token, nothing added


def test_an_empty_system_prompt_is_no_message() -> None:
    text = prompt_renderer(data_task(system=""), tiny_chat_tokenizer())("1+1?")
    assert text == "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"


def test_the_default_system_prompt_asks_for_the_form_that_is_rewarded() -> None:
    assert SYSTEM_PROMPT in prompt_renderer(data_task(), tiny_chat_tokenizer())("1+1?")
    assert all(tag in SYSTEM_PROMPT for tag in ("<think>", "</think>", "<answer>", "</answer>"))


def test_plain_style_needs_no_template() -> None:
    tokenizer = tiny_chat_tokenizer()
    tokenizer.chat_template = None
    assert prompt_renderer(data_task(style="plain", system="Be brief."), tokenizer)("1+1?") == "Be brief.\n\n1+1?"
    assert prompt_renderer(data_task(style="plain", system=""), tokenizer)("1+1?") == "1+1?"
    assert prompt_renderer(ArithmeticTaskConfig(name="arithmetic"), tokenizer)("1+1=") == "1+1="
    with pytest.raises(PromptStyleError, match=r"no chat template; set task\.prompt\.style=plain"):
        prompt_renderer(data_task(), tokenizer)


def test_a_prompt_carries_its_rendered_text_and_its_source() -> None:
    tokenizer = tiny_chat_tokenizer()
    render, encode_text = prompt_renderer(data_task(), tokenizer), prompt_encoder(tokenizer)
    made = make_prompt(PROBLEMS[2], encode_text, position=5, render=render)
    assert (made.text, made.source, made.reference_answer) == (render("2?"), "numbers", "2")
    assert made.token_ids.tolist() == encode_text(made.text)
    streamed = PromptStream(PROBLEMS, encode_text, seed=3, render=render).prompt_at(0)
    assert streamed.text == render(f"{streamed.reference_answer}?")


def test_prompts_that_fit_are_those_that_the_tokenizer_finds_short_enough() -> None:
    tokenizer = tiny_chat_tokenizer()
    render = prompt_renderer(data_task(system=""), tokenizer)
    problems = [Problem(text="é" * number, reference_answer="1", source="s") for number in range(120)]
    lengths = [len(tokenizer(render(problem.text), add_special_tokens=False)["input_ids"]) for problem in problems]
    fits = prompts_fit(problems, tokenizer, render, max_tokens=200)
    assert fits == [length <= 200 for length in lengths]
    assert 0 < sum(fits) < len(fits)
