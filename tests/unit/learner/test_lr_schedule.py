"""The learning rate of each step, and which parameters decay."""

import pytest
import torch
from torch import nn

from learner.lr_schedule import lr_at
from learner.optimizer import adamw_groups, build_adamw


def test_linear_schedule_starts_at_lr_and_falls_in_equal_parts_to_zero() -> None:
    rates = [lr_at(step, total_steps=5, lr=1e-3, schedule="linear") for step in range(5)]
    assert rates == pytest.approx([1e-3, 0.8e-3, 0.6e-3, 0.4e-3, 0.2e-3])


def test_constant_schedule_keeps_lr() -> None:
    assert {lr_at(step, total_steps=7, lr=2e-4, schedule="constant") for step in range(7)} == {2e-4}


@pytest.mark.parametrize("step", [-1, 5])
def test_a_step_outside_the_run_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 5\)"):
        lr_at(step, total_steps=5, lr=1e-3, schedule="linear")


def test_matrices_decay_and_vectors_do_not() -> None:
    layer = nn.Linear(3, 2)
    matrices, vectors = adamw_groups(layer.parameters(), weight_decay=0.1)
    assert (matrices["params"], matrices["weight_decay"]) == ([layer.weight], 0.1)
    assert (vectors["params"], vectors["weight_decay"]) == ([layer.bias], 0.0)


def test_without_decay_there_is_one_group_of_the_trained_parameters() -> None:
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    (group,) = adamw_groups(layer.parameters(), weight_decay=0.0)
    assert group["params"] == [layer.weight]


def test_adamw_moves_a_first_step_by_lr_and_shrinks_decayed_weights() -> None:
    weight = nn.Parameter(torch.full((2, 2), 3.0, dtype=torch.float64))
    optimizer = build_adamw([weight], lr=0.01, betas=(0.9, 0.999), eps=1e-12, weight_decay=0.5)
    weight.grad = torch.full_like(weight, 7.0)
    optimizer.step()
    # Adam's first step is lr * sign(gradient); decoupled decay takes lr * weight_decay * weight
    torch.testing.assert_close(weight.detach(), torch.full_like(weight, 3.0 - 0.01 - 0.01 * 0.5 * 3.0))
