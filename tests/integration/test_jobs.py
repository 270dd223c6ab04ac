"""Runs as jobs of one Ray cluster: submitted by hand, and as the arms of a study."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from processes import LEAVE_TIMEOUT_S, actor_processes
from support import COMMAND_TIMEOUT_S, PROJECT_ROOT, SMALL, CommandRun, wait_until

RAY = str(Path(sys.executable).with_name("ray"))

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def test_a_submitted_job_trains_a_tempered_policy_on_two_workers_an_engine(
    head: dict[str, str], tied_model: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    entrypoint = f"{sys.executable} orchestration/run.py gate=softsign run_dir={run_dir} model.path={tied_model}"
    settings = ("num_iterations=3", "rollout.tensor_parallel_size=2", "rollout.temperature=0.7")
    finished = subprocess.run(
        [RAY, "job", "submit", "--working-dir", ".", "--", *entrypoint.split(), *SMALL, *settings],
        cwd=PROJECT_ROOT,
        env=head,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    rows = CommandRun(status=0, output="", run_dir=run_dir).rows()
    assert [row["mismatch/max"] < 1e-4 for row in rows] == [True] * 3, "engine and learner agree"

    def has_engine() -> bool:
        return any("RolloutEngine" in each.command or "VLLM::" in each.command for each in actor_processes())

    assert wait_until(lambda: not has_engine(), timeout_s=LEAVE_TIMEOUT_S), "the job ended its processes"


def test_arms_of_a_study_run_as_jobs(head: dict[str, str], tied_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    command = [sys.executable, "-m", "orchestration.study", f"study_dir={folder}", f"model.path={tied_model}"]
    study = subprocess.run(
        [*command, *SMALL, "launcher=jobs", "gates=[clip]", "seeds=[0]", "num_iterations=2"],
        cwd=PROJECT_ROOT,
        env=head,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
    )
    assert study.returncode == 0, study.stdout + study.stderr
    with (folder / "iterations.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2
    assert "iteration 2/2" in (folder / "logs" / "clip-seed0.log").read_text(), "the job's log is fetched"
