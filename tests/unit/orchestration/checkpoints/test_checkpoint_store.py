"""Checkpoints on the disk: complete or absent, damage recognised, what is kept and what is never deleted."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_folders import SHARD, save, state_at

from orchestration.checkpoints import manifest as manifest_module
from orchestration.checkpoints.state import ResumeError, RunState
from orchestration.checkpoints.store import CheckpointError, CheckpointStore, has_checkpoints
from transfer.fingerprints import BLOCK_BYTES, Fingerprint

PASS = "eval/arithmetic/pass@1"


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


def test_latest_returns_what_was_committed_last(root: Path) -> None:
    store = CheckpointStore(root, keep_last=2)
    assert store.latest() is None
    assert not has_checkpoints(root)
    save(store, 3)
    final = save(store, 6, content=b"newer")
    assert final.name == "iteration-000006"
    assert CheckpointStore(root, keep_last=2).latest() == (final, state_at(6))
    assert (final / SHARD).read_bytes() == b"newer"
    assert has_checkpoints(root)


def test_keep_last_deletes_the_oldest_only(root: Path) -> None:
    store = CheckpointStore(root, keep_last=2)
    for iteration in (9, 10, 100, 1_000_000):
        save(store, iteration)
    assert names(root) == ["iteration-000100", "iteration-1000000"]
    with pytest.raises(ValueError, match="keep_last=0"):
        CheckpointStore(root, keep_last=0)


def test_the_best_is_kept_beside_the_newest_over_a_restart_too(root: Path) -> None:
    def kept_after(values: dict[int, float | None]) -> list[str]:
        for iteration, value in values.items():
            store = CheckpointStore(root, keep_last=1, keep_best=PASS)  # a resume: nothing is remembered
            save(store, iteration, evaluation=None if value is None else {PASS: value, "eval/arithmetic/length": 1.0})
        return [name.removeprefix("iteration-00000") for name in names(root)]

    assert kept_after({1: None, 2: 0.5}) == ["2"]
    assert kept_after({3: None, 4: 0.25}) == ["2", "4"]
    assert kept_after({5: 0.5}) == ["2", "5"], "an equal one does not replace it"
    assert kept_after({6: 0.75, 7: None}) == ["6", "7"]


def test_a_crash_between_begin_and_commit_leaves_the_previous_one(root: Path) -> None:
    store = CheckpointStore(root, keep_last=1)
    previous = save(store, 1)
    (store.begin(2) / "half.bin").write_bytes(b"x")
    restarted = CheckpointStore(root, keep_last=1)
    assert restarted.latest() == (previous, state_at(1))
    assert restarted.skipped == ()
    empty = restarted.begin(2)
    assert list(empty.iterdir()) == []
    assert [path.name for path in root.glob("tmp-*")] == [empty.name]


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: (folder / SHARD).write_bytes(b"weig"), f"{SHARD} has 4 bytes, 7 were written"),
    (lambda folder: (folder / SHARD).write_bytes(b"weighty"), f"{SHARD} differs"),
    (lambda folder: (folder / SHARD).unlink(), f"{SHARD} is missing"),
    (lambda folder: (folder / "state.json").unlink(), "state.json is missing"),
    (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
    (lambda folder: (folder / "manifest.json").write_text('{"files": {'), "manifest.json is not readable"),
    (lambda folder: (folder / "manifest.json").write_text('{"files": []}'), "manifest.json is not readable"),
    (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json is not readable"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
def test_a_damaged_checkpoint_is_skipped_with_the_reason_and_put_aside(
    root: Path, damage: Callable[[Path], object], reason: str
) -> None:
    store = CheckpointStore(root, keep_last=1)
    good = save(store, 1)
    store = CheckpointStore(root, keep_last=2)
    broken = save(store, 2)
    damage(broken)
    assert store.latest() == (good, state_at(1))
    assert len(store.skipped) == 1
    assert str(broken) in store.skipped[0]
    assert reason in store.skipped[0]
    left = {path.name for path in broken.iterdir()}

    again = save(store, 2)
    assert store.latest() == (again, state_at(2))
    save(store, 3)
    assert names(root) == ["iteration-000002", "iteration-000002.damaged-1", "iteration-000003"]
    assert {path.name for path in (root / "iteration-000002.damaged-1").iterdir()} == left, "nothing is deleted"


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


@pytest.mark.parametrize(("file", "size"), [(SHARD, BLOCK_BYTES + 5), ("state.json", 7), ("manifest.json", 7)])
def test_every_flipped_bit_is_found_whatever_the_files_size(root: Path, file: str, size: int) -> None:
    store, place = CheckpointStore(root, keep_last=2), random.Random(0)
    good = save(store, 1)
    broken = save(store, 2, content=random.Random(1).randbytes(size))
    for _ in range(60):
        bit = place.randrange(8 * (broken / file).stat().st_size)
        flip(broken / file, bit)
        assert store.latest() == (good, state_at(1))
        assert file in store.skipped[0]
        flip(broken / file, bit)
    assert store.latest() == (broken, state_at(2))


def test_damage_of_all_checkpoints_is_told_in_one_line_and_nothing_is_deleted(root: Path) -> None:
    store = CheckpointStore(root, keep_last=2)
    for iteration, (damage, _) in zip((1, 2), DAMAGES, strict=False):
        damage(save(store, iteration))
    before = sorted(path for path in root.rglob("*"))
    for _ in range(2):
        with pytest.raises(ResumeError) as caught:
            CheckpointStore(root, keep_last=1).latest()
        (line,) = caught.value.lines
        assert "\n" not in line
        assert f"iteration-000002: {DAMAGES[1][1]}" in line
        assert f"iteration-000001: {DAMAGES[0][1]}" in line
        assert "nothing was deleted" in line
    assert sorted(path for path in root.rglob("*")) == before
    assert has_checkpoints(root)


def test_checkpoints_that_are_gone_are_missed(root: Path) -> None:
    save(CheckpointStore(root, keep_last=2), 4)
    root.rename(root.with_name("elsewhere"))
    with pytest.raises(ResumeError, match=r"there is none in .*checkpoints, and the last was written after 4 iter"):
        CheckpointStore(root, keep_last=2).latest()


def test_the_log_has_one_row_a_checkpoint_of_the_run_as_it_is(root: Path) -> None:
    store = CheckpointStore(root, keep_last=1)
    for iteration in (2, 4, 6, 4):  # 4 again after damage to it and to 6
        for folder in root.glob("iteration-*"):
            (folder / SHARD).unlink(missing_ok=True)
        save(store, iteration)
    rows = [json.loads(line) for line in (root.parent / "checkpoints.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [2, 4]
    assert all(row["bytes"] > len(b"weights") for row in rows)


def test_a_complete_checkpoint_is_not_written_over(root: Path) -> None:
    store = CheckpointStore(root, keep_last=1)
    folder = save(store, 1)
    with pytest.raises(CheckpointError, match="iteration-000001"):
        save(store, 1, content=b"other")
    assert (folder / SHARD).read_bytes() == b"weights"


def test_commit_of_another_iteration_fails(root: Path) -> None:
    store = CheckpointStore(root, keep_last=1)
    with pytest.raises(AssertionError, match="is not for iteration 4"):
        store.commit(store.begin(3), state_at(4), {})


def test_commit_of_a_file_that_is_not_there_fails(root: Path) -> None:
    store = CheckpointStore(root, keep_last=1)
    with pytest.raises(CheckpointError, match="weights is missing"):
        store.commit(store.begin(3), state_at(3), {"weights": Fingerprint(num_bytes=1, xxh3_128="0")})
    assert CheckpointStore(root, keep_last=1).latest() is None


def test_a_checkpoint_of_another_format_is_neither_skipped_nor_deleted(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(root, keep_last=1)
    folder = save(store, 1)
    monkeypatch.setattr(manifest_module, "FORMAT_VERSION", 3)
    with pytest.raises(ResumeError, match="has format version 2, this program reads 3") as caught:
        store.latest()
    assert "\n" not in str(caught.value)
    with pytest.raises(ResumeError, match="has format version 2"):
        save(store, 2)
    assert (folder / SHARD).exists()


def test_a_checkpoint_of_the_first_format_is_refused_in_one_line(root: Path) -> None:
    folder = save(CheckpointStore(root, keep_last=1), 1)
    (folder / "manifest.json").write_text('{"format_version": 1, "files": {"state.json": {"bytes": 7}}}')
    with pytest.raises(ResumeError, match="has format version 1, this program reads 2; resume with the version"):
        CheckpointStore(root, keep_last=1).latest()


def test_a_complete_checkpoint_with_a_foreign_state_stops_the_resume(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(root, keep_last=1)
    monkeypatch.setattr(RunState, "to_json", lambda self: '{"iteration": 1}')
    save(store, 1)
    with pytest.raises(ResumeError, match=r"state.json.*version of the program"):
        store.latest()
