"""The command, as a process: a resume without a usable checkpoint ends in one line, and nothing on the disk changes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoint_folders import SHARD, save

from configs.loading import dump_yaml, load_config
from orchestration.checkpoints.store import CheckpointStore

ROOT = Path(__file__).resolve().parents[4]


def damage_all(checkpoints: Path) -> None:
    for path in checkpoints.glob(f"*/{SHARD}"):
        path.write_bytes(b"wights?")


def age(checkpoints: Path) -> None:
    for path in checkpoints.glob("*/manifest.json"):
        path.write_text(json.dumps({"format_version": 1, "files": {"state.json": {"bytes": 9}}}))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (damage_all, f"/iteration-000002: {SHARD} differs from what was written; "),
        (shutil.rmtree, "there is none in "),
        (age, "has format version 1, this program reads 2; resume with the version of the program that wrote it"),
    ],
    ids=["damaged", "gone", "old"],
)
def test_a_resume_without_a_usable_checkpoint_is_refused(tmp_path: Path, change, told: str) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "config.yaml").write_text(dump_yaml(load_config([])))
    (run_dir / "metrics.jsonl").write_text('{"iteration": 0}\n{"iteration": 1}\n')
    for iteration in (1, 2):
        save(CheckpointStore(run_dir / "checkpoints", keep_last=2), iteration)
    change(run_dir / "checkpoints")
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}

    command = [sys.executable, str(ROOT / "orchestration/run.py"), f"run_dir={run_dir}", "resume=true"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert told in line
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before
