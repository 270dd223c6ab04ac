"""How the optimizer steps of an iteration become one row."""

import pytest
from step_reports import step

from orchestration.journal.entry import summarize_steps


def test_steps_are_weighted_by_their_tokens() -> None:
    row = summarize_steps(
        [
            step(
                num_tokens=30,
                grad_norm=1.0,
                lr=2e-4,
                policy__entropy=1.0,
                ratio__max=5.0,
                ratio__min=0.5,
                gate__eur_pos=0.5,
            ),
            step(num_tokens=10, grad_norm=3.0, lr=1e-4, policy__entropy=2.0, ratio__max=2.0, ratio__min=0.25),
        ]
    )
    assert row == pytest.approx(
        {
            "policy/entropy": 1.25,
            "ratio/max": 5.0,
            "ratio/min": 0.25,
            "gate/eur_pos": 0.5,
            "grad_norm": 2.0,
            "lr": 1e-4,
        }
    )
    assert summarize_steps([]) == {}


def test_steps_without_trained_tokens_do_not_count_unless_there_are_no_others() -> None:
    empty = [step(num_tokens=0, grad_norm=0.0, gate__tau_pos=tau) for tau in (8.0, 10.0)]
    row = summarize_steps([*empty, step(num_tokens=5, gate__tau_pos=12.0, loss=0.5)])
    assert (row["gate/tau_pos"], row["loss"]) == (12.0, 0.5)
    row = summarize_steps(empty)
    assert row["gate/tau_pos"] == 9.0
    assert "loss" not in row
