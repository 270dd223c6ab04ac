"""Which attention the policy is loaded with."""

import pytest
import torch

import learner.policy
from learner.policy import attention_for


@pytest.mark.parametrize(
    ("device", "dtype", "installed", "expected"),
    [
        ("cuda", torch.bfloat16, True, "flash_attention_2"),
        ("cuda", torch.bfloat16, False, "sdpa"),
        ("cuda", torch.float32, True, "sdpa"),
        ("cpu", torch.bfloat16, True, "sdpa"),
    ],
)
def test_flash_attention_only_where_it_computes(
    monkeypatch: pytest.MonkeyPatch, device: str, dtype: torch.dtype, installed: bool, expected: str
) -> None:
    monkeypatch.setattr(learner.policy, "find_spec", lambda name: object() if installed else None)
    assert attention_for(torch.device(device), dtype) == expected
