from pathlib import Path
from typing import Any

import pytest

from configs.schema import RunConfig
from orchestration.run_dir import RunDirError, resolve_run_dir


def config(**fields: Any) -> RunConfig:
    return RunConfig.model_validate({"gate": {"name": "softsign"}, "task": {"name": "arithmetic"}, "seed": 3, **fields})


def hold_run(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").touch()


def test_new_runs_take_the_next_number(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    first, second = resolve_run_dir(config(), root=root), resolve_run_dir(config(), root=root)
    assert [first.name, second.name] == ["arithmetic-softsign-seed3-001", "arithmetic-softsign-seed3-002"]
    assert first.is_dir()
    assert second.is_dir()
    other = resolve_run_dir(config(gate={"name": "clip"}), root=root)
    assert other.name == "arithmetic-clip-seed3-001"


def test_numbers_of_deleted_runs_below_the_highest_are_not_used_again(tmp_path: Path) -> None:
    (tmp_path / "arithmetic-softsign-seed3-999").mkdir()
    assert resolve_run_dir(config(), root=tmp_path).name == "arithmetic-softsign-seed3-1000"
    assert resolve_run_dir(config(), root=tmp_path).name == "arithmetic-softsign-seed3-1001"


def test_resume_takes_the_newest_folder_that_holds_a_run(tmp_path: Path) -> None:
    hold_run(tmp_path / "arithmetic-softsign-seed3-009")
    hold_run(tmp_path / "arithmetic-softsign-seed3-010")
    hold_run(tmp_path / "arithmetic-softsign-seed30-011")
    (tmp_path / "arithmetic-softsign-seed3-012").mkdir()
    assert resolve_run_dir(config(resume=True), root=tmp_path).name == "arithmetic-softsign-seed3-010"


def test_resume_without_a_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"no run at .*arithmetic-softsign-seed3.*run_dir=") as caught:
        resolve_run_dir(config(resume=True), root=tmp_path / "absent")
    assert "\n" not in str(caught.value)
    with pytest.raises(RunDirError, match="holds no run to resume"):
        resolve_run_dir(config(resume=True, run_dir=str(tmp_path)))


def test_explicit_folder(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "mine"
    assert resolve_run_dir(config(run_dir=str(folder))) == folder.resolve()
    assert resolve_run_dir(config(run_dir=str(folder))).is_dir()  # still holds no run
    hold_run(folder)
    with pytest.raises(RunDirError, match="resume=true"):
        resolve_run_dir(config(run_dir=str(folder)))
    assert resolve_run_dir(config(run_dir=str(folder), resume=True)) == folder.resolve()


def test_a_folder_with_checkpoints_only_is_a_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(RunDirError, match="resume=true"):
        resolve_run_dir(config(run_dir=str(tmp_path)))
    assert resolve_run_dir(config(run_dir=str(tmp_path), resume=True)) == tmp_path.resolve()


def test_a_file_is_not_a_run_dir(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(RunDirError, match="is not a folder"):
        resolve_run_dir(config(run_dir=str(path)))
