"""Which training problems share text with the evaluation sets.

In: training problems, and problems by evaluation set. Out: for each set, the indices of the training problems that
have 13 consecutive words in common with one of its problems. Words are lower-cased and without punctuation. A problem
that is shorter than 13 words counts where a training problem asks the same in full. Pure; text only.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from rollout.tasks import Problem
from rollout.tasks.data_task import normalised

NGRAM_WORDS = 13

_PUNCTUATION = re.compile(r"[^\w\s]|_")


def words_of(text: str) -> list[str]:
    """`It's 3 p.m.` gives `its 3 pm`."""
    return _PUNCTUATION.sub("", text.lower()).split()


def ngrams(words: Sequence[str]) -> Iterator[str]:
    """Every run of 13 words."""
    for start in range(len(words) - NGRAM_WORDS + 1):
        yield " ".join(words[start : start + NGRAM_WORDS])


def contaminated(train: Sequence[Problem], eval_sets: Mapping[str, Sequence[Problem]]) -> dict[str, list[int]]:
    """By evaluation set, in ascending order: indices of the training problems that share text with it."""
    sets_with: dict[str, set[str]] = {}  # n-gram, or a short problem in full -> names of the sets that have it
    for name, problems in eval_sets.items():
        for problem in problems:
            for key in _keys(problem.text, words_of(problem.text)):
                sets_with.setdefault(key, set()).add(name)
    found: dict[str, list[int]] = {name: [] for name in eval_sets}
    for index, problem in enumerate(train):
        names: set[str] = set()
        for key in _keys(problem.text, words_of(problem.text)):
            names |= sets_with.get(key, set())
        for name in names:
            found[name].append(index)
    return found


def _keys(text: str, words: Sequence[str]) -> Iterator[str]:
    """What two texts must have in common; the full text of a short one cannot be taken for words of a longer one."""
    return ngrams(words) if len(words) >= NGRAM_WORDS else iter((f"whole: {normalised(text)}",))
