"""The driver's state: JSON and back."""

import json

import pytest
from checkpoint_folders import positions_at, state_at

from orchestration.checkpoints.state import RunState


def test_run_state_round_trip_and_advance() -> None:
    state = RunState.fresh()
    for iteration in (1, 2):
        state = state.advance(positions_at(iteration))
    assert state == state_at(2)
    assert RunState.from_json(state.to_json()) == state
    assert RunState.from_json(RunState.fresh().to_json()) == RunState.fresh()


@pytest.mark.parametrize("text", ['{"iteration": 1}', "[]", "{", '{"iteration": "1"}'])
def test_a_foreign_run_state_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"run state|Expecting"):
        RunState.from_json(text)


@pytest.mark.parametrize("positions", [{"unused": 3}, {"unused": 3, "open": 2}, {"unused": 3, "open": [3]}])
def test_positions_that_cannot_be_are_refused(positions: dict[str, object]) -> None:
    content = json.loads(state_at(1).to_json())
    with pytest.raises(ValueError, match="positions"):
        RunState.from_json(json.dumps(content | {"positions": positions}))
