"""The driver's state: JSON and back, and which run continues which."""

import json

import pytest
from checkpoint_folders import positions_at, state_at

from orchestration.checkpoints.state import ResumeError, RunState


def test_run_state_round_trip_and_advance() -> None:
    state = RunState.fresh(seed=5)
    for iteration in (1, 2):
        state = state.advance(num_prompts=16, positions=positions_at(iteration))
    assert state == state_at(2)
    assert RunState.from_json(state.to_json()) == state
    assert RunState.from_json(RunState.fresh(seed=5).to_json()) == RunState.fresh(seed=5)


def test_a_state_fits_the_seed_and_batch_size_that_made_it() -> None:
    state = state_at(3)
    state.check(seed=5, prompts_per_iteration=16)
    RunState.fresh(seed=5).check(seed=5, prompts_per_iteration=32)
    with pytest.raises(ResumeError, match=r"after 3 iterations: was written with seed=5, now seed=6; set seed=5"):
        state.check(seed=6, prompts_per_iteration=16)
    with pytest.raises(ResumeError, match=r"48 prompts were trained, rollout.prompts_per_iteration=8 makes that 24"):
        state.check(seed=5, prompts_per_iteration=8)


@pytest.mark.parametrize("text", ['{"iteration": 1}', "[]", "{", '{"iteration": "1"}'])
def test_a_foreign_run_state_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"run state|Expecting"):
        RunState.from_json(text)


@pytest.mark.parametrize("positions", [{"unused": 3}, {"unused": 3, "open": 2}, {"unused": 3, "open": [3]}])
def test_positions_that_cannot_be_are_refused(positions: dict[str, object]) -> None:
    content = json.loads(state_at(1).to_json())
    with pytest.raises(ValueError, match="positions"):
        RunState.from_json(json.dumps(content | {"positions": positions}))
