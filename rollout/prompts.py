"""The stream of prompts that a run trains on.

In: the problems of a task and the model's tokenizer. Out: the prompt at any position, a pure function of (problems,
seed, position), so a position is all there is to save. Knows nothing of engines, rewards or admission.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rollout.contract import Prompt
from rollout.tasks import Problem


class PromptStream:
    """Endless passes over the problems, each pass in an order of its own that derives from (seed, pass).

    tokenizer_encode turns a problem's text into token ids and adds nothing of its own.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        tokenizer_encode: Callable[[str], list[int]],
        *,
        seed: int,
    ) -> None:
        if not problems:
            raise ValueError("no problems: the task's training set is empty")
        self._problems = tuple(problems)
        self._encode = tokenizer_encode
        self._seed = seed
        self._order: tuple[int, list[int]] = (-1, [])  # (pass, its permutation), the last one used

    def prompt_at(self, position: int) -> Prompt:
        """The prompt at a position (0, 1, ...), whatever was asked before."""
        assert position >= 0, f"position {position}: the stream begins at 0"
        pass_number, place = divmod(position, len(self._problems))
        return make_prompt(self._problems[self._permutation(pass_number)[place]], self._encode, index=position)

    def _permutation(self, pass_number: int) -> list[int]:
        if self._order[0] != pass_number:
            order = list(range(len(self._problems)))
            # A string seed mixes both numbers by SHA-512.
            random.Random(f"prompts:{self._seed}:{pass_number}").shuffle(order)
            self._order = (pass_number, order)
        return self._order[1]


def make_prompt(problem: Problem, tokenizer_encode: Callable[[str], list[int]], *, index: int) -> Prompt:
    """The problem as a prompt with the given index; evaluation uses it too."""
    return Prompt(
        index=index,
        token_ids=np.asarray(tokenizer_encode(problem.text), dtype=np.int32),
        text=problem.text,
        reference_answer=problem.reference_answer,
    )


def load_tokenizer(path: str, *, trust_remote_code: bool) -> Any:
    """The Hugging Face tokenizer of a model folder or hub name."""
    from transformers import AutoTokenizer  # a second to import; streams with another encoder do without

    return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)


def prompt_encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """Text to token ids as they stand: a problem's text already contains its chat tags."""

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    return encode
