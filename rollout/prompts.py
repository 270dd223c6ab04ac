"""From problems to prompts, and the stream of prompts that a run trains on.

In: the problems of a task, the style of its prompts, the model's tokenizer. Out: the prompt at any position, a pure
function of (problems, weights, seed, position), so a position is all there is to save. Knows nothing of engines,
rewards or admission.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from math import gcd, lcm
from types import MappingProxyType
from typing import Any

import numpy as np

from configs.tasks import TaskSettings
from rollout.contract import Prompt
from rollout.tasks import Problem

Encode = Callable[[str], list[int]]  # text to token ids, nothing added
Render = Callable[[str], str]  # a question to the text that the model reads
EQUAL_WEIGHTS: Mapping[str, float] = MappingProxyType({})
TEXTS_AT_ONCE = 1024  # texts that the tokenizer gets in one call
MAX_ADDED_TOKENS = 16  # most tokens that encode no byte of the text, such as a mark of its beginning


class PromptStyleError(ValueError):
    """A prompt style that the model's tokenizer does not know; the message names the remedy."""


def as_it_stands(question: str) -> str:
    """The style of a task whose problems are whole prompts."""
    return question


class PromptStream:
    """Endless passes over the problems of every source, each pass in an order that derives from (seed, pass).

    Several sources take turns by weight, whatever their sizes; a source that `weights` does not name has weight 1.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        encode: Encode,
        *,
        seed: int,
        weights: Mapping[str, float] = EQUAL_WEIGHTS,
        render: Render = as_it_stands,
    ) -> None:
        if not problems:
            raise ValueError("no problems: the task's training set is empty")
        by_source: dict[str, list[Problem]] = {}
        for problem in problems:
            by_source.setdefault(problem.source, []).append(problem)
        # In a mixture a source's order has its name in it, so that it does not change when another is added.
        salts = {name: f":{name}" if len(by_source) > 1 else "" for name in by_source}
        self._sources = [_Source(by_source[name], seed=seed, salt=salts[name]) for name in by_source]
        self._turns = Interleave([weights.get(name, 1.0) for name in by_source])
        self._encode = encode
        self._render = render

    def prompt_at(self, position: int) -> Prompt:
        """The prompt at a position (0, 1, ...), whatever was asked before."""
        assert position >= 0, f"position {position}: the stream begins at 0"
        source, place = self._turns.turn(position)
        return make_prompt(
            self._sources[source].problem_at(place), self._encode, position=position, render=self._render
        )


class Interleave:
    """Turns of sources by weight: each position goes to the source that lags its share most, of equals to the first.

    The order repeats after `period` positions: weights 1 and 1 give 0 1 0 1 ..., weights 3 and 1 give 0 0 1 0 ....
    """

    def __init__(self, weights: Sequence[float]) -> None:
        if not weights or min(weights) <= 0:
            raise ValueError(f"weights {list(weights)}: must be one or more positive numbers")
        # Decimal as typed, so that 0.1 is exactly a tenth, shares are exact and the period is short.
        exact = [Fraction(str(weight)) for weight in weights]
        common = lcm(*(weight.denominator for weight in exact))
        parts = [int(weight * common) for weight in exact]
        divisor = gcd(*parts)
        self._parts = [part // divisor for part in parts]
        self.period = sum(self._parts)
        self._turns: list[tuple[int, int]] = []  # turns of the first positions, as far as they were asked for
        self._counts = [0] * len(weights)

    def turn(self, position: int) -> tuple[int, int]:
        """(source, number of its earlier turns) at a position, both counted from 0."""
        cycle, place = divmod(position, self.period)
        while len(self._turns) <= place:
            after = len(self._turns) + 1
            lags = [part * after - self.period * count for part, count in zip(self._parts, self._counts, strict=True)]
            source = lags.index(max(lags))
            self._turns.append((source, self._counts[source]))
            self._counts[source] += 1
        source, earlier = self._turns[place]
        return source, earlier + cycle * self._parts[source]


class _Source:
    """The problems of one source, pass after pass."""

    def __init__(self, problems: Sequence[Problem], *, seed: int, salt: str) -> None:
        self._problems = tuple(problems)
        self._seed = seed
        self._salt = salt
        self._order: tuple[int, list[int]] = (-1, [])  # (pass, its permutation), the last one used

    def problem_at(self, place: int) -> Problem:
        pass_number, inside = divmod(place, len(self._problems))
        if self._order[0] != pass_number:
            order = list(range(len(self._problems)))
            # A string seed mixes all parts by SHA-512.
            random.Random(f"prompts:{self._seed}:{pass_number}{self._salt}").shuffle(order)
            self._order = (pass_number, order)
        return self._problems[self._order[1][inside]]


def make_prompt(problem: Problem, encode: Encode, *, position: int, render: Render = as_it_stands) -> Prompt:
    """The problem as a prompt at the given position; evaluation uses it too."""
    text = render(problem.text)
    return Prompt(
        position=position,
        token_ids=np.asarray(encode(text), dtype=np.int32),
        text=text,
        reference_answer=problem.reference_answer,
        source=problem.source,
    )


def prompt_renderer(config: TaskSettings, tokenizer: Any) -> Render:
    """The style of the task's prompts; PromptStyleError where they need a chat template that does not do."""
    style = config.prompt
    if style is None:
        return as_it_stands
    if style.style == "plain":
        return (lambda question: f"{style.system}\n\n{question}") if style.system else as_it_stands
    if not tokenizer.chat_template:
        raise PromptStyleError(
            f"task.prompt.style=chat: the tokenizer of {tokenizer.name_or_path} has no chat template; "
            f"set task.prompt.style=plain or use an instruct model"
        )
    system = [{"role": "system", "content": style.system}] if style.system else []

    def render(question: str) -> str:
        messages = [*system, {"role": "user", "content": question}]
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    _require_rendering(render, tokenizer, with_system=bool(system))
    return render


def _require_rendering(render: Render, tokenizer: Any, *, with_system: bool) -> None:
    """PromptStyleError where the chat template is defective, or refuses a conversation of these roles."""
    from jinja2 import TemplateError  # the language of chat templates

    try:
        render("1 + 1 = ?")
    except TemplateError as error:
        reason = " ".join(str(error).split())
        hint = "task.prompt.system='' or " if with_system else ""
        raise PromptStyleError(
            f"task.prompt.style=chat: the chat template of {tokenizer.name_or_path} refuses a question ({reason}); set "
            f"{hint}task.prompt.style=plain"
        ) from error


def prompts_fit(problems: Sequence[Problem], tokenizer: Any, render: Render, *, max_tokens: int) -> list[bool]:
    """Whether each problem's prompt has at most max_tokens tokens."""
    texts = [render(problem.text) for problem in problems]
    # A token encodes a byte at least, so most prompts need no tokenizer, which would take minutes for 100,000.
    doubtful = [index for index, text in enumerate(texts) if len(text.encode()) + MAX_ADDED_TOKENS > max_tokens]
    fits = [True] * len(texts)
    for start in range(0, len(doubtful), TEXTS_AT_ONCE):
        indices = doubtful[start : start + TEXTS_AT_ONCE]
        encoded = tokenizer([texts[index] for index in indices], add_special_tokens=False)["input_ids"]
        for index, token_ids in zip(indices, encoded, strict=True):
            fits[index] = len(token_ids) <= max_tokens
    return fits


def load_tokenizer(path: str, *, trust_remote_code: bool) -> Any:
    """The Hugging Face tokenizer of a model folder or hub name."""
    from transformers import AutoTokenizer  # a second to import; streams with another encoder do without

    return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)


def prompt_encoder(tokenizer: Any) -> Encode:
    """A function from text to token ids that adds nothing: chat tags are part of the text already."""

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    return encode
