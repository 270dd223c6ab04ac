"""Expected lengths of completions, learned from finished ones: of the same problem, else of its source.

In: mean lengths of finished groups. Out: an expectation in tokens, for ordering and for room in the key/value cache; a
wrong one costs time, never a result. Knows neither engines nor positions in the stream.
"""

from rollout.contract import Prompt

SOURCE_WEIGHT = 0.1  # weight of a new group in its source's moving mean: lengths drift while the policy learns
PROBLEM_WEIGHT = 0.5  # weight of the latest pass in a problem's mean
MOST_PROBLEMS = 2**16  # problems remembered, the latest ones: some 8 MiB
UNKNOWN_SHARE = 0.5  # share of max_new_tokens that is expected before anything of the source is finished


class ExpectedLengths:
    """Moving means of completion lengths, a number for each source and for each of the problems seen last."""

    def __init__(self) -> None:
        self._of_source: dict[str, float] = {}
        self._of_problem: dict[
            int, float
        ] = {}  # means by a hash; two problems that share one are merely ordered together

    def observe(self, prompt: Prompt, *, num_tokens: int, num_completions: int) -> None:
        """Learns from a finished group of the prompt. num_tokens: of all its completions together."""
        length = num_tokens / num_completions
        problem, source = _problem(prompt), prompt.source
        self._of_source[source] = _moved(self._of_source.get(source), length, weight=SOURCE_WEIGHT)
        self._of_problem[problem] = _moved(self._of_problem.pop(problem, None), length, weight=PROBLEM_WEIGHT)
        if len(self._of_problem) > MOST_PROBLEMS:
            del self._of_problem[next(iter(self._of_problem))]  # a dictionary is in the order of insertion

    def expected(self, prompt: Prompt, *, max_new_tokens: int) -> float:
        """Tokens a completion of the prompt, at most max_new_tokens."""
        unknown = UNKNOWN_SHARE * max_new_tokens
        length = self._of_problem.get(_problem(prompt), self._of_source.get(prompt.source, unknown))
        return min(length, float(max_new_tokens))


def _problem(prompt: Prompt) -> int:
    return hash((prompt.source, prompt.text))


def _moved(mean: float | None, value: float, *, weight: float) -> float:
    """The moving mean after a value; the first one is taken whole."""
    return value if mean is None else (1.0 - weight) * mean + weight * value
