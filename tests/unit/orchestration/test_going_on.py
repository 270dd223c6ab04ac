"""What the block at an early end says of a run's folder."""

import shlex
import sys
from pathlib import Path

import pytest

from configs.command import read_command, settings_of_runs, settings_to_go_on
from configs.loading import load_config
from orchestration.boundary import Boundary
from orchestration.checkpoints.state import RunState
from orchestration.going_on import newest_checkpoint, progress_of
from orchestration.stream.positions import FRESH
from orchestration.terminal.ending import Progress
from orchestration.terminal.stopping import Stopping

CONFIG = load_config(["num_iterations=8"])


def told(
    run_dir: Path, *, completed: int, has_begun: bool = True, settings: list[str] | None = None
) -> Progress | None:
    state = RunState(iteration=completed, policy_version=completed, positions=FRESH)
    boundary = Boundary(Stopping(), state)
    boundary.has_begun = has_begun
    return progress_of(CONFIG, run_dir, boundary, settings)


def test_the_newest_checkpoint_is_the_one_with_the_highest_number(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    for name in ("iteration-000009", "iteration-000010", "iteration-1000000.damaged-1", "tmp-iteration-000012"):
        (tmp_path / name).mkdir()
    assert newest_checkpoint(tmp_path) == tmp_path / "iteration-000010"


def test_a_run_goes_on_from_its_checkpoint_or_else_from_its_rows_or_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["/venv/python", "-u", "orchestration/run.py", "gate=clip"])
    monkeypatch.setattr(sys, "argv", ["orchestration/run.py", "gate=clip"])
    again = f"/venv/python -u orchestration/run.py gate=clip run_dir={tmp_path}"

    first = told(tmp_path, completed=0, settings=["gate=clip"])
    assert first is not None
    assert (first.place, first.command) == ("iteration 1 of 8", again)
    assert first.safe == "nothing yet; the first checkpoint comes after checkpoint.every=10 iterations"

    (tmp_path / "metrics.jsonl").touch()
    third = told(tmp_path, completed=2, settings=["gate=clip", "run_dir=auto"])
    assert third is not None
    assert (third.place, third.command) == ("iteration 3 of 8", f"{again} resume=true")

    folder = tmp_path / "checkpoints/iteration-000006"
    folder.mkdir(parents=True)
    last = told(tmp_path, completed=8, settings=["gate=clip", "resume=true"])
    assert last is not None
    assert (last.place, last.command) == ("the work after the last iteration", f"{again} resume=true")
    assert last.safe == f"the state after 6 of 8 iterations, {folder}"


def test_a_run_that_has_not_begun_says_only_what_a_resume_still_has(tmp_path: Path) -> None:
    assert told(tmp_path, completed=0, has_begun=False) is None
    resumed = told(tmp_path, completed=3, has_begun=False)
    assert resumed is not None
    assert resumed.place == "the start"


@pytest.mark.parametrize("name", ["plain-1.2", "with space", "a,b=c", "it's"])
def test_the_command_that_goes_on_can_be_read(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    words = settings_to_go_on(["gate=clip", "run_dir=x"], run_dir=folder, resume=True)
    configs = read_command(shlex.split(shlex.join(words)))
    assert configs is not None
    assert [(config.run_dir, config.resume, config.gate.name) for config in configs] == [(str(folder), True, "clip")]


def test_each_run_of_a_sweep_has_its_own_settings() -> None:
    arguments = ["-m", "gate=clip,erf", "seed=3"]
    assert settings_of_runs(arguments) == [["gate=clip", "seed=3"], ["gate=erf", "seed=3"]]
    assert settings_of_runs(arguments[1:]) == [["gate=clip,erf", "seed=3"]]
