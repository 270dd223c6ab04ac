"""A model whose completions run from about 16 to 512 tokens, heavy-tailed, on the arithmetic task's prompts.

It is the embedded model warm-started on other demonstrations: a scratchpad of random digits, whose mean length grows
with the first addend's tens digit, then an answer that is right half of the time. It is trained once and cached. Its
purpose is completions that are hard to batch, not right answers.
"""

import random
from dataclasses import replace
from pathlib import Path

from rollout.tasks.arithmetic import DemonstrationFlaws, Sum
from rollout.tasks.embedded_model import EmbeddedRecipe, ensure_embedded_model

LONGEST = 512  # tokens of the longest completion
SHORTEST_SCRATCHPAD = 9  # digits; 16 tokens in all with four tags, two digits of an answer and the end token
SHORTEST_MEAN, GROWTH = 6.0, 1.75  # mean of the additional digits: 6, 10, 18, ... 530 by the tens digit
RECIPE = replace(EmbeddedRecipe(), max_position_embeddings=640, num_steps=300, batch_size=32, num_scratchpad_steps=0)
WORDY_SETTINGS = (f"rollout.max_new_tokens={LONGEST}", f"model.max_model_len={RECIPE.max_position_embeddings}")
REVISION = 1  # number to raise when a change of the code below changes the model


def wordy_demonstration(item: Sum, rng: random.Random, flaws: DemonstrationFlaws) -> str:
    """A completion with a scratchpad of meaningless digits."""
    mean = SHORTEST_MEAN * GROWTH ** (item.first // 10 - 1)
    room = LONGEST - SHORTEST_SCRATCHPAD - 8
    length = SHORTEST_SCRATCHPAD + min(room, int(rng.expovariate(1.0 / mean)))
    scratchpad = "".join(rng.choices("0123456789", k=length))
    answer = item.total + rng.choice((0, 0, 1, -1))
    return f"<think>{scratchpad}</think><answer>{answer}</answer>"


def ensure_wordy_model() -> Path:
    """The model's folder, built first (a few minutes on one core) if the cache does not have it."""
    return ensure_embedded_model(RECIPE, prefix=f"wordy-{REVISION}-", demonstrate=wordy_demonstration)
