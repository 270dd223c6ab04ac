import json
import logging
from pathlib import Path

import pytest

import orchestration.checkpoint as module
from orchestration.checkpoint import CheckpointError, CheckpointStore, RunState
from orchestration.stream.positions import FRESH, StreamPositions


def state_at(iteration: int) -> RunState:
    return RunState(
        iteration=iteration,
        policy_version=iteration,
        prompt_position=16 * iteration,
        seed=5,
        positions=positions_at(iteration),
    )


def positions_at(iteration: int) -> StreamPositions:
    """A batch of 16 ahead, and one position that was replaced before the iteration was trained."""
    ahead = tuple(range(16 * iteration + 1, 16 * iteration + 17))
    return StreamPositions(unused=16 * iteration + 17, open=ahead) if iteration else FRESH


def save(store: CheckpointStore, iteration: int, *, content: bytes = b"weights") -> Path:
    temporary = store.begin(iteration)
    (temporary / "learner").mkdir()
    (temporary / "learner" / "rank0.bin").write_bytes(content)
    return store.commit(temporary, state_at(iteration))


def test_latest_returns_what_was_committed_last(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    assert store.latest() is None
    save(store, 3)
    final = save(store, 6, content=b"newer")
    assert final.name == "iteration-000006"
    found = CheckpointStore(tmp_path / "checkpoints", keep=2).latest()
    assert found == (final, state_at(6))
    assert (final / "learner" / "rank0.bin").read_bytes() == b"newer"


def test_keep_deletes_the_oldest_only(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    for iteration in (9, 10, 100, 1_000_000):
        save(store, iteration)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iteration-000100", "iteration-1000000"]
    with pytest.raises(ValueError, match="keep=0"):
        CheckpointStore(tmp_path, keep=0)


def test_a_crash_between_begin_and_commit_leaves_the_previous_one(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    previous = save(store, 1)
    (store.begin(2) / "half.bin").write_bytes(b"x")
    restarted = CheckpointStore(tmp_path, keep=1)
    assert restarted.latest() == (previous, state_at(1))
    assert restarted.skipped == ()
    empty = restarted.begin(2)
    assert list(empty.iterdir()) == []
    assert [path.name for path in tmp_path.glob("tmp-*")] == [empty.name]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lambda folder: (folder / "learner" / "rank0.bin").write_bytes(b"weig"),
            "rank0.bin has 4 bytes, 7 were written",
        ),
        (lambda folder: (folder / "learner" / "rank0.bin").write_bytes(b"weighty"), "rank0.bin differs"),
        (lambda folder: (folder / "learner" / "rank0.bin").unlink(), "rank0.bin is missing"),
        (lambda folder: (folder / "state.json").unlink(), "state.json is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda folder: (folder / "manifest.json").write_text('{"files": {'), "manifest.json is not readable"),
        (lambda folder: (folder / "manifest.json").write_text('{"files": []}'), "manifest.json is not readable"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage, reason: str
) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    good = save(store, 1)
    broken = save(store, 2)
    damage(broken)
    with caplog.at_level(logging.WARNING):
        assert store.latest() == (good, state_at(1))
    assert len(store.skipped) == 1
    assert str(broken) in store.skipped[0]
    assert reason in store.skipped[0]
    assert store.skipped[0] in caplog.text


def test_large_files_are_checked_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DIGEST_LIMIT_BYTES", 1000)
    store = CheckpointStore(tmp_path, keep=1)
    folder = save(store, 1, content=b"x" * 1001)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert files["learner/rank0.bin"] == {"bytes": 1001}
    assert files["state.json"].keys() == {"bytes", "sha256"}
    (folder / "learner" / "rank0.bin").write_bytes(b"x" * 1000)
    assert store.latest() is None


def test_a_broken_checkpoint_does_not_count_as_kept_and_may_be_written_again(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    save(store, 1)
    store = CheckpointStore(tmp_path, keep=2)
    (save(store, 2) / "state.json").write_text("{")
    again = save(store, 2)
    assert store.latest() == (again, state_at(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iteration-000001", "iteration-000002"]


def test_a_complete_checkpoint_is_not_written_over(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    folder = save(store, 1)
    with pytest.raises(CheckpointError, match="iteration-000001"):
        save(store, 1, content=b"other")
    assert (folder / "learner" / "rank0.bin").read_bytes() == b"weights"


def test_commit_of_another_iteration_fails(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    with pytest.raises(AssertionError, match="is not for iteration 4"):
        store.commit(store.begin(3), state_at(4))


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
    with pytest.raises(CheckpointError, match=r"after 3 iterations: was written with seed=5, now seed=6; set seed=5"):
        state.check(seed=6, prompts_per_iteration=16)
    with pytest.raises(
        CheckpointError, match=r"48 prompts were trained, rollout.prompts_per_iteration=8 makes that 24"
    ):
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


def test_a_checkpoint_of_another_format_is_neither_skipped_nor_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    folder = save(store, 1)
    monkeypatch.setattr(module, "FORMAT_VERSION", 2)
    with pytest.raises(CheckpointError, match="has format version 1, this program reads 2"):
        store.latest()
    with pytest.raises(CheckpointError, match="has format version 1"):
        save(store, 2)
    assert (folder / "learner" / "rank0.bin").exists()


def test_a_complete_checkpoint_with_a_foreign_state_stops_the_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    monkeypatch.setattr(RunState, "to_json", lambda self: '{"iteration": 1}')
    save(store, 1)
    with pytest.raises(CheckpointError, match=r"state.json.*version of the program"):
        store.latest()
