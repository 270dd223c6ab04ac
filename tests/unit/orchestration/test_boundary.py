"""A run that a signal stops: at every stage, the checkpoint it leaves and what a resume then does."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_loop import RecordedParts, run

from learner.contract import StepReport
from orchestration.checkpoints.store import CheckpointStore
from orchestration.terminal import stopping
from orchestration.terminal.leaving import Terminated

FOREVER_S = 300.0


class StoppedParts(RecordedParts):
    """Parts during whose event, at a version of the weights, something happens: a signal arrives."""

    def __init__(self, event: str, act: Callable[[], None]) -> None:
        super().__init__()
        self._awaited = event
        self._act = act
        self.learner.steps = self._steps_with_waits

    def _happens(self, event: str) -> None:
        if event == self._awaited:
            self._awaited = ""
            self._act()

    def _take(self, iteration: int) -> list[Any]:
        groups = super()._take(iteration)
        self._happens(f"take {iteration}")
        return groups

    def _steps_with_waits(self) -> Iterator[StepReport]:
        for index, report in enumerate(self._steps()):
            self._happens(f"step {index} of {self.version}")
            yield report

    def _publish(self, version: int) -> Any:
        self._happens(f"publish {version}")
        return super()._publish(version)

    def _save(self, path: str, *, pretrained: bool) -> None:
        self._happens(f"save {self.version}")
        super()._save(path, pretrained=pretrained)

    def evaluate(self) -> Any:
        self._happens(f"evaluate {self.version}")
        return super().evaluate()


def press(*numbers: int) -> Callable[[], None]:
    def act() -> None:
        for number in numbers:
            signal.raise_signal(number)

    return act


def saved(run_dir: Path) -> tuple[int, str] | None:
    """Iteration of the newest checkpoint, and the version of the weights in it."""
    found = CheckpointStore(run_dir / "checkpoints", keep_last=2).latest()
    return None if found is None else (found[1].iteration, (found[0] / "weights").read_text())


def rows(run_dir: Path, name: str = "metrics.jsonl") -> list[int]:
    return [json.loads(line)["iteration"] for line in (run_dir / name).read_text().splitlines()]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ("take 1", 1),  # waiting for engines or graders: the learner still has the state, which is saved at once
        ("step 0 of 1", 2),  # the weights move: the iteration is finished first
        ("publish 2", 2),
        ("evaluate 3", 3),
        ("save 2", 2),  # by itself, after two iterations: not saved twice
    ],
)
def test_a_signal_at_any_stage_leaves_the_state_of_the_last_iteration(
    event: str, expected: int, tmp_path: Path
) -> None:
    parts = StoppedParts(event, press(signal.SIGTERM))
    with pytest.raises(Terminated):
        run(parts, tmp_path)
    assert saved(tmp_path) == (expected, str(expected))
    assert rows(tmp_path) == list(range(expected))
    assert parts.events.count("save") == (2 if event == "evaluate 3" else 1)

    run(RecordedParts(), tmp_path, resume=True)
    assert rows(tmp_path) == [0, 1, 2]
    assert rows(tmp_path, "eval.jsonl") == [0, 3]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_saves_and_keeps_its_name(number: signal.Signals, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as stopped:
        run(StoppedParts("take 1", press(number)), tmp_path)
    assert getattr(stopped.value, "number", signal.SIGINT) == number
    assert saved(tmp_path) == (1, "1")


def test_without_a_finished_iteration_nothing_is_saved(tmp_path: Path) -> None:
    parts = StoppedParts("take 0", press(signal.SIGTERM))
    with pytest.raises(Terminated):
        run(parts, tmp_path)
    assert "save" not in parts.events


def test_a_step_that_outlasts_the_grace_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    def outlast() -> None:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(FOREVER_S)

    start = time.monotonic()
    parts = StoppedParts("step 1 of 2", outlast)
    parts.learner.is_saving = False  # that of two iterations is written meanwhile
    with pytest.raises(Terminated):
        run(parts, tmp_path, grace_s=0.2)
    assert time.monotonic() - start < FOREVER_S / 10
    assert saved(tmp_path) == (2, "2"), "not the weights in the middle of an iteration"
    assert rows(tmp_path) == [0, 1]


def test_saving_that_outlasts_the_grace_is_given_up(tmp_path: Path) -> None:
    parts = StoppedParts("take 1", press(signal.SIGTERM))
    parts.learner.save = lambda path, pretrained: time.sleep(FOREVER_S)
    start = time.monotonic()
    with pytest.raises(Terminated):
        run(parts, tmp_path, grace_s=0.2)
    assert time.monotonic() - start < FOREVER_S / 10
    assert saved(tmp_path) is None
    assert "the state after 1 iterations is not saved" in (tmp_path / "run.log").read_text()


@pytest.mark.parametrize("event", ["take 1", "step 0 of 1"])
def test_a_second_ctrl_c_saves_nothing(event: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "SAME_PRESS_S", 0.0)
    parts = StoppedParts(event, press(signal.SIGINT, signal.SIGINT))
    if event == "take 1":
        parts = StoppedParts("take 1", press(signal.SIGINT))
        parts.learner.save = lambda path, pretrained: signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(parts, tmp_path)
    assert saved(tmp_path) is None


def test_an_evaluation_that_was_cut_off_is_made_up_for_by_the_resume(tmp_path: Path) -> None:
    with pytest.raises(Terminated):
        run(StoppedParts("evaluate 2", press(signal.SIGTERM)), tmp_path, "eval.every=1")
    assert rows(tmp_path, "eval.jsonl") == [0, 1]
    resumed = RecordedParts()
    run(resumed, tmp_path, "eval.every=1", resume=True)
    assert resumed.events[:3] == ["publish 2", "evaluate 2", "admit 2"]
    assert rows(tmp_path, "eval.jsonl") == [0, 1, 2, 3]
