"""Runs as jobs of one Ray cluster: submitted by hand and stopped, as the arms of a study, and where its node dies."""

import csv
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from machine import slowdown
from processes import LEAVE_TIMEOUT_S, actor_processes
from support import (
    COMMAND_TIMEOUT_S,
    EVENT_TIMEOUT_S,
    NAMED_WITHIN_S,
    PROJECT_ROOT,
    SMALL,
    CommandRun,
    Head,
    kill_ray_process,
    wait_until,
)
from waiting_command import start_waiting

RAY = str(Path(sys.executable).with_name("ray"))

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def job(client: dict[str, str], *words: str) -> str:
    """What `ray job` prints."""
    ended = subprocess.run(
        [RAY, "job", *words], cwd=PROJECT_ROOT, env=client, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def is_running(run_dir: Path) -> bool:
    return bool(list(run_dir.glob(".owner-*")))


def test_a_job_trains_a_tempered_policy_on_two_workers_an_engine_and_saves_its_state_when_it_is_stopped(
    head: Head, tied_model: Path, tmp_path: Path
) -> None:
    run_dir, name = tmp_path / "run", "tempered"
    entrypoint = f"{sys.executable} orchestration/run.py gate=softsign run_dir={run_dir} model.path={tied_model}"
    settings = ("rollout.tensor_parallel_size=2", "rollout.temperature=0.7", "checkpoint.every=100")
    # docs/stopping.md: Ray kills a job 3 s after its SIGTERM else
    patient = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": f"{COMMAND_TIMEOUT_S:.0f}"}})
    submit = ("submit", "--no-wait", f"--submission-id={name}", f"--runtime-env-json={patient}", "--working-dir", ".")
    job(head.client, *submit, "--", *entrypoint.split(), *SMALL, *settings, "num_iterations=100")
    run = CommandRun(status=143, output="", run_dir=run_dir)

    def has_trained() -> bool:
        assert is_running(run_dir), job(head.client, "logs", name)
        return (run_dir / "metrics.jsonl").exists() and len(run.rows()) >= 3

    assert wait_until(lambda: is_running(run_dir)), job(head.client, "logs", name)
    assert wait_until(has_trained, timeout_s=COMMAND_TIMEOUT_S)
    job(head.client, "stop", name)
    rows = run.rows()
    assert [row["mismatch/max"] < 1e-4 for row in rows] == [True] * len(rows), "engine and learner agree"
    said = job(head.client, "logs", name)
    saved = run_dir / f"checkpoints/iteration-{len(rows):06d}"
    assert saved.is_dir(), said
    assert re.search(r"^softgate: terminated \(SIGTERM\)$", said, flags=re.MULTILINE), said
    assert f"  safe: the state after {len(rows)} of {len(rows)} iterations, {saved}\n" in said

    def has_engine() -> bool:
        return any("RolloutEngine" in each.command or "VLLM::" in each.command for each in actor_processes())

    assert wait_until(lambda: not has_engine(), timeout_s=LEAVE_TIMEOUT_S), "the job ended its processes"


def test_arms_of_a_study_run_as_jobs(head: Head, tied_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    command = [sys.executable, "-m", "orchestration.study", f"study_dir={folder}", f"model.path={tied_model}"]
    study = subprocess.run(
        [*command, *SMALL, "launcher=jobs", "gates=[clip]", "seeds=[0]", "num_iterations=2"],
        cwd=PROJECT_ROOT,
        env=head.client,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
    )
    assert study.returncode == 0, study.stdout + study.stderr
    with (folder / "iterations.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2
    assert "iteration 2/2" in (folder / "logs" / "clip-seed0.log").read_text(), "the job's log is fetched"


def test_a_driver_whose_node_of_the_cluster_dies_names_it_in_time(head: Head, tmp_path: Path) -> None:
    """The last test here: `ray start` ends what is left of the node."""
    output = tmp_path / "output"
    command = start_waiting(head.address, output, environment=head.client)
    killed_at = time.monotonic()
    kill_ray_process(head.process, "raylet")
    assert command.wait(timeout=EVENT_TIMEOUT_S) == 1
    assert time.monotonic() - killed_at < NAMED_WITHIN_S * slowdown()
    (line,) = [line for line in output.read_text().splitlines() if line.startswith("softgate: ")]
    node = head.address.partition(":")[0]
    assert line.startswith(f"softgate: Ray's raylet on node {node} does not answer any more")
    assert "restart Ray there, then run the command again" in line
