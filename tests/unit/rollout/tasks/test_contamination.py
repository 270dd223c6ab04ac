"""Overlap of 13 consecutive words, against a search over all pairs of texts."""

import random
from collections.abc import Sequence

from data_files import COPIED_FILES, needs_copies

from configs.tasks import EvalSetConfig
from rollout.tasks import Problem
from rollout.tasks.contamination import contaminated, words_of
from rollout.tasks.data_sets import load_set

WORDS = ["the", "a", "of", "train", "car", "red", "blue", "walks", "3", "12", "apples", "hour"]


def problems(*texts: str) -> list[Problem]:
    return [Problem(text=text, reference_answer="1", source="s") for text in texts]


def reference(train: Sequence[Problem], held: Sequence[Problem]) -> list[int]:
    """Indices of the training problems of which 13 consecutive words occur as a phrase in one of the others."""
    phrases = [f" {' '.join(words_of(problem.text))} " for problem in held]
    found = []
    for index, problem in enumerate(train):
        words = words_of(problem.text)
        runs = [f" {' '.join(words[start : start + 13])} " for start in range(len(words) - 12)]
        if any(run in phrase for run in runs for phrase in phrases):
            found.append(index)
    return found


def test_words_are_lower_case_without_punctuation() -> None:
    assert words_of("It's 3 p.m., said  Jim:\n“$x_1$ is 1,200!”") == [
        "its",
        "3",
        "pm",
        "said",
        "jim",
        "x1",
        "is",
        "1200",
    ]
    assert words_of("Ünïted — $ % _") == ["ünïted"]


def test_thirteen_words_in_a_row_are_shared_and_twelve_are_not() -> None:
    thirteen = "one two three four five six seven eight nine ten eleven twelve thirteen"
    twelve = thirteen.rpartition(" ")[0]
    train = problems(f"Before. {thirteen.title()}!", f"{twelve}, after", f"x {twelve} y z", "short")
    found = contaminated(train, {"one": problems(f"{thirteen} and more"), "other": problems("nothing of it")})
    assert found == {"one": [0], "other": []}


def test_a_short_problem_counts_where_it_is_asked_in_full() -> None:
    held = {"set": problems("What is 5 - 3?")}
    train = problems("what is  5 - 3?", "What is 5 + 3?", "Tell me: what is 5 - 3?")
    assert contaminated(train, held) == {"set": [0]}  # without punctuation the second would equal it


def test_overlap_equals_a_search_of_all_pairs() -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(13, 30))) for _ in range(60)]
    held = problems(*texts[:20])
    spliced = []
    for text in texts[20:]:
        donor, words = rng.choice(texts[:20]).split(), text.split()
        start, length = rng.randrange(len(donor) - 12), rng.randint(10, 16)
        spliced.append(" ".join([*words[:5], *donor[start : start + length], *words[5:]]))
    train = problems(*spliced)
    expected = reference(train, held)
    assert contaminated(train, {"set": held}) == {"set": expected}
    assert 5 < len(expected) < 35


@needs_copies
def test_overlap_of_the_real_sets_equals_a_search_of_all_pairs() -> None:
    sections = {
        "train": EvalSetConfig(path=str(COPIED_FILES["train.gsm8k"]), extraction="hashes", limit=100),
        "eval": EvalSetConfig(path=str(COPIED_FILES["eval.gsm8k"]), extraction="hashes", limit=100),
    }
    train, held = (load_set(name, section, key=f"task.{name}").problems for name, section in sections.items())
    copied = [*train, *held[:3]]
    assert contaminated(copied, {"gsm8k": held}) == {"gsm8k": reference(copied, held)}
    assert contaminated(copied, {"gsm8k": held})["gsm8k"][-3:] == [100, 101, 102]
