"""Checkpoints for the tests of this folder: a state, and a file that a rank would have written."""

from pathlib import Path

from orchestration.checkpoints.state import RunState
from orchestration.checkpoints.store import CheckpointStore
from orchestration.stream.positions import FRESH, StreamPositions
from transfer.fingerprints import write_hashed

SHARD = "learner-0000-0000.safetensors"


def state_at(iteration: int) -> RunState:
    return RunState(
        iteration=iteration,
        policy_version=iteration,
        positions=positions_at(iteration),
    )


def positions_at(iteration: int) -> StreamPositions:
    """A batch of 16 ahead, and one position that was replaced before the iteration was trained."""
    ahead = tuple(range(16 * iteration + 1, 16 * iteration + 17))
    return StreamPositions(unused=16 * iteration + 17, open=ahead) if iteration else FRESH


def save(
    store: CheckpointStore, iteration: int, *, content: bytes = b"weights", evaluation: dict[str, float] | None = None
) -> Path:
    temporary = store.begin(iteration)
    files = {SHARD: write_hashed(temporary / SHARD, [content])}
    return store.commit(temporary, state_at(iteration), files, evaluation=evaluation)
