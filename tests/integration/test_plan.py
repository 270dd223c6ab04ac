"""The planner with real parts: it measures this machine, keeps what it found, and plans from it again."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import COMMAND_TIMEOUT_S, PROJECT_ROOT, SMALL

pytestmark = pytest.mark.integration
MEASURING_TIMEOUT_S = 3 * COMMAND_TIMEOUT_S  # parts and three runs, one after the other


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestration.plan", *SMALL, *arguments],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        timeout=MEASURING_TIMEOUT_S,
        env={**os.environ, "COLUMNS": "120"},
    )


@pytest.mark.timeout(MEASURING_TIMEOUT_S + 200)
def test_measures_then_plans_and_plans_again_without_measuring(
    tied_model: Path, tmp_path: Path, no_process_left: None
) -> None:
    path = tmp_path / "calibration.json"
    words = (f"model.path={tied_model}", f"calibration={path}", "gpus=2,4,8")
    first = plan("--calibrate", *words)
    assert first.returncode == 0, first.stderr + first.stdout
    found = json.loads(path.read_text())
    costs = found["costs"]
    assert found["shape"]["layers"] == 2
    assert 1 <= min(found["lengths"]) <= max(found["lengths"]) <= 16
    assert costs["engine"]["step_s"] + costs["engine"]["sequence_s"] > 0
    assert costs["learner"]["step_s"] + costs["learner"]["row_s"] + costs["learner"]["token_s"] > 0
    assert costs["publish_fixed_s"] > 0
    assert 0.3 <= costs["pair_rate"] <= 1.0

    again = plan(*words)
    assert again.returncode == 0, again.stderr
    assert again.stdout == first.stdout.partition("\n")[2] or again.stdout in first.stdout
    assert "298,880 parameters" in again.stdout
    assert re.search(r"^4 +[1-3] +[1-3] +", again.stdout, flags=re.MULTILINE), again.stdout


def test_without_a_calibration_the_remedy_is_named(tied_model: Path, tmp_path: Path) -> None:
    missing = plan(f"model.path={tied_model}", f"calibration={tmp_path / 'none.json'}")
    assert missing.returncode == 2
    assert missing.stderr.count("\n") == 1
    assert "measure this machine with --calibrate" in missing.stderr
