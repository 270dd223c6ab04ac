"""Which folders of Ray's sessions stay and which go, on folders that look like Ray's."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestration.network import session_folders
from orchestration.network.session_folders import KEPT_S, MARKER, SESSION_LINK, remove_left_behind, session_folder


def session(root: Path, name: str) -> Path:
    folder = root / f"session_{name}"
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "raylet.out").write_text("log")
    return folder


def failed(root: Path, name: str) -> Path:
    folder = session(root, name)
    with pytest.raises(RuntimeError), session_folder(folder):
        raise RuntimeError("the run failed")
    return folder


def test_a_run_that_ends_well_leaves_nothing(tmp_path: Path) -> None:
    folder = session(tmp_path, "own")
    (tmp_path / SESSION_LINK).symlink_to(folder)
    with session_folder(folder):
        assert folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    folder = session(tmp_path, "own")
    with pytest.raises(KeyboardInterrupt), session_folder(folder):
        raise KeyboardInterrupt
    assert not folder.exists()


def test_a_failed_run_keeps_its_logs_for_a_day_and_says_where(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = failed(tmp_path, "failed")
    assert str(folder / "logs") in caplog.text
    remove_left_behind(tmp_path)
    assert (folder / "logs" / "raylet.out").exists()
    yesterday = time.time() - KEPT_S - 1.0
    os.utime(folder / MARKER, (yesterday, yesterday))
    with session_folder(session(tmp_path, "next")):
        assert not folder.exists()


def test_what_a_killed_run_left_goes_with_the_next_run(tmp_path: Path) -> None:
    folder, foreign = session(tmp_path, "killed"), session(tmp_path, "of_another_program")
    program = (
        "import pathlib, sys, time; from orchestration.network.session_folders import session_folder\n"
        "with session_folder(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "held\n"
        remove_left_behind(tmp_path)
        assert folder.exists(), "its run lives"
        run.send_signal(signal.SIGKILL)
    with session_folder(session(tmp_path, "next")):
        assert not folder.exists()
    assert foreign.exists()


def test_what_is_still_written_at_the_start_goes_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = session(tmp_path, "killed")
    (folder / MARKER).touch()
    monkeypatch.setattr(session_folders, "REMOVAL_TIMEOUT_S", 0.2)
    monkeypatch.setattr(session_folders.shutil, "rmtree", lambda path, ignore_errors: None)  # is written again at once
    with session_folder(session(tmp_path, "next")):
        assert (folder / MARKER).exists(), "by it the folder is found again"
        monkeypatch.undo()
    assert not folder.exists()
