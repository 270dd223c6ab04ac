"""The built-in rewards of a completion: format and answer (paper, Reward, eq. 10 and 11).

In: a completion's text and the reference answer. Out: numbers. Imports little, because every grader child imports it,
and knows nothing of weights, processes and time limits.
"""

import re
from collections.abc import Callable

from rollout.rewards.grading import is_equivalent

Reward = Callable[[str, str], float]  # function of (completion text, reference answer)

THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE = TAGS = ("<think>", "</think>", "<answer>", "</answer>")
FULL_FORMAT, BOTH_ENDS, ONE_END, NO_FORMAT = 1.0, 0.5, 0.25, 0.0

_BLOCKS = re.compile(r"<think>.*</think>\s*<answer>.*</answer>", re.DOTALL)


def format_reward(completion_text: str) -> float:
    """The format reward: 1, 0.5, 0.25 or 0.

    It is 1 for one think block followed by one answer block and nothing else. White space around and between the blocks
    is allowed, a block may be empty, and no tag may occur twice. Otherwise it is 0.5 if the text begins with `<think>`
    and ends with `</answer>`, 0.25 if only one of these holds, and else 0.
    """
    text = completion_text.strip()
    if all(text.count(tag) == 1 for tag in TAGS) and _BLOCKS.fullmatch(text):
        return FULL_FORMAT
    ends = (text.startswith(THINK_OPEN), text.endswith(ANSWER_CLOSE))
    return BOTH_ENDS if all(ends) else ONE_END if any(ends) else NO_FORMAT


def answer_reward(completion_text: str, reference_answer: str) -> float:
    """The answer reward: 1 if the text of the first answer block is equivalent to the reference, else 0."""
    _, opened, rest = completion_text.partition(ANSWER_OPEN)
    answer, closed, _ = rest.partition(ANSWER_CLOSE)
    return 1.0 if opened and closed and is_equivalent(answer, reference_answer) else 0.0


BUILT_IN: dict[str, Reward] = {  # rewards by name, in the order of a verdict's components
    "format": lambda completion_text, reference_answer: format_reward(completion_text),
    "answer": answer_reward,
}
