"""Rewinds: what is tried again, from where, and what ends the run."""

from pathlib import Path

import pytest

from learner.group import LearnerError, LearnerLost
from orchestration.checkpoints.state import RunState
from orchestration.checkpoints.store import CheckpointStore
from orchestration.recovery.faults import Faults, TooManyFaults
from orchestration.recovery.rewinds import Rewinds, Start
from orchestration.stream.group_stream import GroupsLost
from orchestration.stream.positions import StreamPositions

FRESH = Start(checkpoint=None, state=RunState.fresh())


class Run:
    """Attempts that fail in turn with the given errors, after a checkpoint of the given iteration, if any."""

    def __init__(self, folder: Path, *failures: tuple[Exception, int | None], max_restarts: int = 9) -> None:
        self.lines: list[str] = []
        self.starts: list[Start] = []
        self.faults = Faults(self.lines.append, max_restarts=max_restarts)
        self._failures = list(failures)
        self._store = CheckpointStore(folder, keep_last=2)
        self._rewinds = Rewinds(self._store, self.faults)

    def run(self, *, begins: bool = True) -> str:
        return self._rewinds.run(self._begin if begins else self._attempt, FRESH)

    def _begin(self, start: Start) -> str:
        self._rewinds.begun()
        return self._attempt(start)

    def _attempt(self, start: Start) -> str:
        self.starts.append(start)
        if not self._failures:
            return "result"
        error, iteration = self._failures.pop(0)
        if iteration is not None:
            state = RunState(
                iteration=iteration,
                policy_version=iteration,
                positions=StreamPositions(unused=4 * iteration, open=()),
            )
            self._store.commit(self._store.begin(iteration), state, {})
        raise error


def test_a_run_goes_on_from_its_newest_checkpoint_or_from_its_start(tmp_path: Path) -> None:
    first, second = LearnerLost("step: learner rank 1: its process died"), GroupsLost("finished groups were lost")
    run = Run(tmp_path, (first, None), (second, 3), (first, 6))
    assert run.run() == "result"
    assert run.starts[:2] == [FRESH, FRESH]
    assert [start.state.iteration for start in run.starts] == [0, 0, 3, 6]
    assert [start.checkpoint and start.checkpoint.name for start in run.starts[2:]] == [
        "iteration-000003",
        "iteration-000006",
    ]
    assert run.lines[0] == f"{first}; the run goes back to its start (1 of at most 9 restarts an hour)"
    assert run.lines[1].startswith("the learner is back after ")
    assert run.lines[2].startswith(f"{second}; the run goes back to its checkpoint after iteration 3 (2 of")
    assert len(run.lines) == 6
    assert run.faults.drain() == {"faults/learners": 3.0}


@pytest.mark.parametrize("error", [LearnerError("step: loss is not finite"), ValueError("a reward failed")])
def test_an_error_that_would_repeat_ends_the_run(tmp_path: Path, error: Exception) -> None:
    run = Run(tmp_path, (error, None))
    with pytest.raises(type(error)) as ended:
        run.run()
    assert ended.value is error
    assert (len(run.starts), run.lines, run.faults.drain()) == (1, [], {})


def test_a_learner_that_never_worked_ends_the_run_and_one_that_cannot_be_started_again_does_in_the_end(
    tmp_path: Path,
) -> None:
    lost = LearnerLost("start: learner rank 0: its process died")
    never = Run(tmp_path / "never", (lost, None))
    with pytest.raises(LearnerLost):
        never.run(begins=False)
    again = Run(tmp_path / "again", *[(lost, None)] * 5, max_restarts=2)
    with pytest.raises(TooManyFaults, match=r"rank 0: its process died; recovery.max_restarts=2 an hour are used up"):
        again.run()
    assert len(again.starts) == 3
