"""Advantages of each kind against numpy, the groups in which they carry nothing, and what overlong completions cost."""

import numpy as np
import pytest
import torch

from learner.batches.advantages import ADVANTAGES, group_advantages, overlong_penalty


@pytest.mark.parametrize("rewards", [[0.0, 2.0], [1.25, 0.0, 0.25, 2.0, 0.5], [0.0] * 7 + [2.0]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_centred_and_scaled_by_the_sample_standard_deviation(rewards: list[float], dtype: torch.dtype) -> None:
    advantages = group_advantages(torch.tensor(rewards, dtype=dtype))
    expected = (np.array(rewards) - np.mean(rewards)) / (np.std(rewards, ddof=1) + 1e-6)
    assert advantages.dtype == dtype
    np.testing.assert_allclose(advantages.numpy(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("reward", [0.0, 0.1, 2.0, -1e8])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_exactly_zero_where_all_rewards_are_equal(reward: float, size: int) -> None:
    assert group_advantages(torch.full((size,), reward)).tolist() == [0.0] * size


def test_integer_rewards_become_float32() -> None:
    advantages = group_advantages(torch.tensor([0, 1, 1, 2]))
    assert advantages.dtype == torch.float32
    assert advantages[0].item() == pytest.approx(-1 / np.std([0, 1, 1, 2], ddof=1), rel=1e-5)


@pytest.mark.parametrize("shape", [(0,), (2, 4), ()], ids=str)
def test_anything_but_one_group_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be one group"):
        group_advantages(torch.zeros(shape))


def by_hand(kind: str, rewards: list[float]) -> list[float]:
    """One completion at a time."""
    found = []
    for place, reward in enumerate(rewards):
        others = rewards[:place] + rewards[place + 1 :]
        baseline = sum(others) / len(others) if kind == "leave_one_out" else sum(rewards) / len(rewards)
        scale = np.std(rewards, ddof=1) + 1e-6 if kind == "group_std" else 1.0
        found.append((reward - baseline) / scale)
    return found


@pytest.mark.parametrize("rewards", [[0.0, 2.0], [1.25, 0.0, 0.25, 2.0, 0.5], [0.0] * 7 + [2.0], [-3.5, 1e3, 2.0]])
@pytest.mark.parametrize("kind", ["group_std", "group_mean", "leave_one_out"])
def test_every_kind_equals_its_definition(kind: str, rewards: list[float]) -> None:
    found = ADVANTAGES[kind](torch.tensor(rewards, dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), by_hand(kind, rewards), rtol=1e-12)


@pytest.mark.parametrize("kind", ADVANTAGES)
def test_no_kind_learns_from_a_group_that_agrees(kind: str) -> None:
    for rewards in (torch.full((7,), 0.1), torch.tensor([2.0])):
        assert ADVANTAGES[kind](rewards).tolist() == [0.0] * len(rewards)
    with pytest.raises(ValueError, match="must be one group"):
        ADVANTAGES[kind](torch.zeros(2, 4))


def test_overlong_penalty_equals_dapo_equation_13() -> None:
    lengths = [1, 10, 11, 12, 15, 19, 20]
    expected = [0.0 if length <= 12 else ((20 - 8) - length) / 8 for length in lengths]
    found = overlong_penalty(torch.tensor(lengths), max_new_tokens=20, buffer=8)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(expected)
    assert expected[-1] == -1.0
    assert overlong_penalty(torch.tensor([0, 5, 20]), max_new_tokens=20, buffer=20).tolist() == [0.0, -0.25, -1.0]
