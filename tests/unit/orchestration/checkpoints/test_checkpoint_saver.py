"""Checkpoints written while training goes on: what waits for what, and where a failure of the writing is told."""

import threading
from pathlib import Path

import pytest
from checkpoint_folders import SHARD, state_at

from orchestration.checkpoints.saver import CheckpointSaver
from orchestration.checkpoints.store import CheckpointStore
from transfer.fingerprints import Fingerprint, write_hashed


class SlowLearner:
    """Writes when it is told to."""

    def __init__(self) -> None:
        self.may_write = threading.Event()
        self.failure: Exception | None = None
        self.saves: list[str] = []

    def save(self, path: str, *, pretrained: bool) -> None:
        self.saves.append(path)
        self.pretrained = pretrained

    @property
    def is_saving(self) -> bool:
        return not self.may_write.is_set()

    def await_saved(self) -> dict[str, Fingerprint]:
        assert self.may_write.wait(30.0)
        if self.failure is not None:
            raise self.failure
        return {SHARD: write_hashed(Path(self.saves[-1]) / SHARD, [b"weights"])}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints", keep_last=2)


def saver_of(store: CheckpointStore, learner: SlowLearner, lines: list[str]) -> CheckpointSaver:
    return CheckpointSaver(store, learner, pretrained=True, log=lines.append)


def test_a_checkpoint_is_committed_once_it_is_written(store: CheckpointStore) -> None:
    learner = SlowLearner()
    with saver_of(store, learner, []) as saver:
        saver.start(state_at(1))
        saver.poll()
        assert store.latest() is None
        learner.may_write.set()
        saver.poll()
        assert store.latest() == (Path(learner.saves[0]).with_name("iteration-000001"), state_at(1))
        saver.poll()
    assert learner.pretrained


def test_the_next_one_waits_for_the_one_in_flight(store: CheckpointStore) -> None:
    learner = SlowLearner()
    threading.Timer(0.2, learner.may_write.set).start()
    with saver_of(store, learner, []) as saver:
        saver.start(state_at(1))
        saver.start(state_at(2), evaluation={"eval/arithmetic/pass@1": 0.5})
        assert store.latest() is not None
        assert learner.saves[1].endswith("tmp-iteration-000002")
    found = store.latest()
    assert found is not None
    assert found[1] == state_at(2), "the end of the run waits too"
    rows = (found[0].parents[1] / "checkpoints.jsonl").read_text().splitlines()
    assert len(rows) == 2
    assert all("training_waited_s" in row and "written_after_s" in row for row in rows)


def end_with(saver: CheckpointSaver, error: BaseException) -> None:
    """A run that ends with an error while a checkpoint is in flight."""
    with saver:
        saver.start(state_at(1))
        raise error


def test_an_interrupt_waits_for_the_one_in_flight(store: CheckpointStore) -> None:
    learner = SlowLearner()
    threading.Timer(0.2, learner.may_write.set).start()
    with pytest.raises(KeyboardInterrupt):
        end_with(saver_of(store, learner, []), KeyboardInterrupt())
    assert store.latest() is not None


@pytest.mark.parametrize("finding", ["poll", "start", "finish"])
def test_a_failure_of_the_writing_is_raised_by_the_next_call(store: CheckpointStore, finding: str) -> None:
    learner = SlowLearner()
    learner.failure = RuntimeError("checkpoint: learner rank 1: OSError: no space left on device")
    learner.may_write.set()
    saver = saver_of(store, learner, [])
    saver.start(state_at(1))
    call = {"poll": saver.poll, "finish": saver.finish, "start": lambda: saver.start(state_at(2))}[finding]
    with pytest.raises(RuntimeError, match="learner rank 1"):
        call()
    assert store.latest() is None
    assert len(learner.saves) == 1
    saver.finish()


def test_a_failure_of_the_writing_does_not_hide_what_ended_the_run(store: CheckpointStore) -> None:
    learner, lines = SlowLearner(), list[str]()
    learner.failure = RuntimeError("the learner group is shut down")
    learner.may_write.set()
    with pytest.raises(ValueError, match="engine 1 is gone"):
        end_with(saver_of(store, learner, lines), ValueError("engine 1 is gone"))
    assert lines == ["the checkpoint after 1 iterations was not finished: the learner group is shut down"]
