"""pass@k against the enumeration of all subsets, and against what it estimates."""

from itertools import combinations

import numpy as np
import pytest

from orchestration.evaluate.summary import pass_at_k


@pytest.mark.parametrize("num_samples", range(1, 9))
def test_it_is_the_share_of_all_subsets_that_hold_a_right_sample(num_samples: int) -> None:
    for num_correct in range(num_samples + 1):
        samples = [True] * num_correct + [False] * (num_samples - num_correct)
        for k in range(1, num_samples + 1):
            subsets = list(combinations(samples, k))
            expected = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k(num_samples, num_correct, k) == pytest.approx(expected, abs=1e-15)


def test_its_expectation_is_the_chance_that_one_of_k_draws_is_right() -> None:
    right_share, num_samples, k = 0.2, 10, 4
    correct = np.random.default_rng(0).binomial(num_samples, right_share, size=40_000)
    estimates = [pass_at_k(num_samples, int(count), k) for count in correct]
    assert np.mean(estimates) == pytest.approx(1 - (1 - right_share) ** k, abs=0.005)


def test_large_counts_neither_overflow_nor_lose_the_tail() -> None:
    assert pass_at_k(10_000, 1, 1) == pytest.approx(1e-4, rel=1e-9)
    assert pass_at_k(10_000, 5_000, 100) == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((4, 5, 1), "num_correct=5"), ((4, -1, 1), "num_correct=-1"), ((4, 2, 0), "k=0"), ((4, 2, 5), "k=5: .*lower k")],
)
def test_counts_that_cannot_be_are_refused(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pass_at_k(*arguments)
