"""Group advantages against numpy, and the groups in which they carry nothing."""

import numpy as np
import pytest
import torch

from learner.advantages import group_advantages


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
