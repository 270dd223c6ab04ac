"""A model whose completions run from about 16 to 512 tokens, heavy-tailed, on the arithmetic task's prompts.

It is the embedded model warm-started on other demonstrations: a scratchpad of random digits, whose mean length grows
with the first addend's tens digit, then an answer that is right half of the time. Trained once and cached. It exists to
be hard to batch, not to be good.
"""

import random
from dataclasses import replace
from pathlib import Path

from rollout.tasks.arithmetic import DemonstrationFlaws, Sum
from rollout.tasks.embedded_model import EmbeddedRecipe, ensure_embedded_model

LONGEST = 512  # tokens of a completion
SHORTEST_SCRATCHPAD = 9  # with four tags, two digits of an answer and the end token 16 tokens in all
SHORTEST_MEAN, GROWTH = 6.0, 1.75  # of what is longer than that: by the tens digit, 6, 10, 18, ... 530 tokens
RECIPE = replace(EmbeddedRecipe(), max_position_embeddings=640, num_steps=300, batch_size=32, num_scratchpad_steps=0)
WORDY_SETTINGS = (f"rollout.max_new_tokens={LONGEST}", f"model.max_model_len={RECIPE.max_position_embeddings}")
REVISION = 1  # raised when what is below changes what comes out


def wordy_demonstration(item: Sum, rng: random.Random, *, flaws: DemonstrationFlaws) -> str:
    """A completion with a scratchpad of digits that say nothing."""
    mean = SHORTEST_MEAN * GROWTH ** (item.first // 10 - 1)
    room = LONGEST - SHORTEST_SCRATCHPAD - 8
    length = SHORTEST_SCRATCHPAD + min(room, int(rng.expovariate(1.0 / mean)))
    scratchpad = "".join(rng.choices("0123456789", k=length))
    answer = item.total + rng.choice((0, 0, 1, -1))
    return f"<think>{scratchpad}</think><answer>{answer}</answer>"


def ensure_wordy_model() -> Path:
    """The model's folder, built first (a few minutes on one core) if the cache does not have it."""
    return ensure_embedded_model(RECIPE, prefix=f"wordy-{REVISION}-", demonstrate=wordy_demonstration)
