"""The embedded task: sums of two numbers of 10-99, worked out digit by digit with the carry.

Out: the 8,100 problems, split once for all runs; the perfect completion of each; the deliberately poor demonstrations
of the warm start. Text only: no tokenizer, no torch, no reward.
"""

import random
from dataclasses import dataclass
from functools import cache

from rollout.tasks import Problem

NAME = "arithmetic"  # name of the source and of the evaluation set
SMALLEST_ADDEND = 10
LARGEST_ADDEND = 99
MAX_HELD_OUT = 4000  # number of problems that no demonstration shows, so that none of them can be held out
SPLIT_SEED = 20260219  # seed of the split; not the run's, so that every run is evaluated on the same problems


@dataclass(frozen=True, kw_only=True, slots=True)
class Sum:
    """The sum first + second of one problem."""

    first: int
    second: int

    @property
    def total(self) -> int:
        return self.first + self.second

    def problem(self) -> Problem:
        text = f"<|user|>{self.first}+{self.second}=<|assistant|>"  # the whole prompt, chat tags included
        return Problem(text=text, reference_answer=str(self.total), source=NAME)


@dataclass(frozen=True, kw_only=True, slots=True)
class DemonstrationFlaws:
    """Flaws of the warm start's demonstrations; shares are independent probabilities."""

    guess_share: float = 0.65  # share of guesses: an empty think block and an answer that is slightly wrong
    largest_error: int = 5  # largest error of a guess, which is never right
    forgotten_carry_share: float = 0.5  # share of the scratchpads that forget the carry
    missing_tag_share: float = 0.75  # share of demonstrations without one of the four tags


class ArithmeticTask:
    """The task of two-digit sums, of which held_out are kept for evaluation.

    The held-out sets are nested: a larger held_out contains a smaller one.
    """

    def __init__(self, *, held_out: int) -> None:
        if not 1 <= held_out <= MAX_HELD_OUT:
            raise ValueError(f"held_out={held_out}: must lie in 1..{MAX_HELD_OUT}")
        self.held_out = held_out

    def train_problems(self) -> list[Problem]:
        return [item.problem() for item in shuffled_sums()[self.held_out :]]

    def eval_sets(self) -> dict[str, list[Problem]]:
        return {NAME: [item.problem() for item in shuffled_sums()[: self.held_out]]}

    def weights(self) -> dict[str, float]:
        return {}


@cache
def shuffled_sums() -> tuple[Sum, ...]:
    """All 8,100 sums in the fixed order whose first entries are held out."""
    addends = range(SMALLEST_ADDEND, LARGEST_ADDEND + 1)
    sums = [Sum(first=first, second=second) for first in addends for second in addends]
    random.Random(SPLIT_SEED).shuffle(sums)
    return tuple(sums)


def demonstration_sums() -> tuple[Sum, ...]:
    """Sums that demonstrations may show; no configuration can hold out any of them."""
    return shuffled_sums()[MAX_HELD_OUT:]


def scratchpad_completion(item: Sum, *, carry_remembered: bool = True) -> str:
    """The completion that adds digit by digit, without the end token; without the carry its answer is 10 too small.

    Example: 17 + 25 gives `<think>7+5=12,1+2+1=4</think><answer>42</answer>`.
    """
    first_tens, first_units = divmod(item.first, 10)
    second_tens, second_units = divmod(item.second, 10)
    units = first_units + second_units
    carry = units // 10 if carry_remembered else 0
    tens = first_tens + second_tens + carry
    scratchpad = f"{first_units}+{second_units}={units},{first_tens}+{second_tens}+{carry}={tens}"
    return f"<think>{scratchpad}</think><answer>{tens * 10 + units % 10}</answer>"


def poor_demonstration(item: Sum, rng: random.Random, flaws: DemonstrationFlaws) -> str:
    """One demonstration of the warm start, with random flaws and without the end token."""
    if rng.random() < flaws.guess_share:
        error = rng.randint(1, flaws.largest_error) * rng.choice((-1, 1))
        completion = f"<think></think><answer>{item.total + error}</answer>"
    else:
        completion = scratchpad_completion(item, carry_remembered=rng.random() >= flaws.forgotten_carry_share)
    if rng.random() < flaws.missing_tag_share:
        completion = completion.replace(rng.choice(("<think>", "</think>", "<answer>", "</answer>")), "")
    return completion
