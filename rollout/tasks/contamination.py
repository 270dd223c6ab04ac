"""Contamination: finds training problems that share text with the evaluation sets.

In: training problems, and problems by evaluation set. Out: for each set, the indices of the training problems that
share 13 consecutive words with one of its problems. Words are compared in lower case and without punctuation. An
evaluation problem shorter than 13 words must equal the whole training problem. Pure; text only.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from rollout.tasks import Problem
from rollout.tasks.data_task import normalised

NGRAM_WORDS = 13

_PUNCTUATION = re.compile(r"[^\w\s]|_")


def words_of(text: str) -> list[str]:
    """The words of a text for comparison: `It's 3 p.m.` gives `its 3 pm`."""
    return _PUNCTUATION.sub("", text.lower()).split()


def contaminated(train: Sequence[Problem], eval_sets: Mapping[str, Sequence[Problem]]) -> dict[str, list[int]]:
    """Ascending indices of the training problems that share text with each evaluation set."""
    sets_with: dict[str, set[str]] = {}  # names of the sets that have an n-gram, or a whole short problem
    for name, problems in eval_sets.items():
        for problem in problems:
            for key in _keys(problem.text):
                sets_with.setdefault(key, set()).add(name)
    found: dict[str, list[int]] = {name: [] for name in eval_sets}
    for index, problem in enumerate(train):
        for name in set().union(*(sets_with.get(key, ()) for key in _keys(problem.text))):
            found[name].append(index)
    return found


def _keys(text: str) -> Iterator[str]:
    """Every sequence of 13 consecutive words; of a shorter text one key, which is never that of a sequence."""
    words = words_of(text)
    if len(words) < NGRAM_WORDS:
        yield f"whole: {normalised(text)}"
    for start in range(len(words) - NGRAM_WORDS + 1):
        yield " ".join(words[start : start + NGRAM_WORDS])
