"""A run whose processes are killed and stopped goes on by itself, and nothing but the clock tells it from another."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from processes import started_processes
from support import (
    ADAPTIVE,
    COMMAND_TIMEOUT_S,
    EIGHT,
    PROJECT_ROOT,
    SMALL,
    CommandRun,
    await_rows,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

# Of what is stopped for good; a process that only is slow may be replaced, too, and changes nothing.
SOON = ("recovery.health_every_s=0.5", "recovery.health_timeout_s=8")


class RunUnderAttack:
    """A command that runs, and the processes of its actors."""

    def __init__(self, run_dir: Path, model: Path) -> None:
        command = [sys.executable, "orchestration/run.py", f"run_dir={run_dir}", f"model.path={model}"]
        self.run_dir = run_dir
        self.process = subprocess.Popen(
            [*command, *SMALL, *EIGHT, ADAPTIVE, *SOON, "rollout.num_engines=2"],
            cwd=PROJECT_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )
        self.seconds: dict[str, float] = {}  # from a fault to the next row

    def actors(self, name: str) -> list[int]:
        """Process ids of the run's actors of a class."""
        own = {child.pid for child in psutil.Process(self.process.pid).children(recursive=True)}
        return sorted(each.pid for each in started_processes() if f"ray::{name}" in each.command and each.pid in own)

    def hit(self, *blows: tuple[str, int, signal.Signals], after_rows: int) -> None:
        """Sends signals to actors, each named by its class and its place among its like; waits for the next row."""
        metrics = self.run_dir / "metrics.jsonl"
        await_rows(metrics, after_rows, self.process)
        targets = [(self.actors(name)[place], sent) for name, place, sent in blows]
        num_rows, hit_at = len(metrics.read_text().splitlines()), time.monotonic()
        for pid, sent in targets:
            os.kill(pid, sent)
        text = metrics.read_bytes()
        while metrics.read_bytes() == text or len(metrics.read_text().splitlines()) < num_rows + 1:
            assert self.process.poll() is None, self.process.communicate()[0]
            time.sleep(0.05)
        self.seconds[" and ".join(name for name, _, _ in blows)] = time.monotonic() - hit_at

    def end(self) -> CommandRun:
        output, _ = self.process.communicate(timeout=COMMAND_TIMEOUT_S)
        return CommandRun(status=self.process.returncode, output=output, run_dir=self.run_dir)


def test_killed_and_stopped_processes_are_replaced_and_change_nothing(
    main_run: CommandRun, tied_model: Path, tmp_path: Path, no_process_left: None
) -> None:
    attacked = RunUnderAttack(tmp_path / "run", tied_model)
    attacked.hit(("RolloutEngine", 0, signal.SIGKILL), ("RolloutEngine", 1, signal.SIGSTOP), after_rows=2)
    attacked.hit(("RankProcess", 0, signal.SIGKILL), after_rows=4)
    run = attacked.end()
    print(f"seconds from the fault to the next row: {attacked.seconds}")
    assert run.status == 0, run.output

    lines = run.output.splitlines()
    for told in (
        r"engine \d: its process \d+ died: killed, crashed or out of memory; a new one is starting \(\d of at most 10 ",
        r"engine \d: (did not answer|had work and made no step) for 8 s; a new one is starting",
        r"engine \d is back after .* s; the next publish includes it",
        r"[\w ]+: learner rank 0: its process \d+ died: .*; the run goes back to its (start|checkpoint after)",
        r"the learner is back after .* s",
    ):
        assert any(re.match(told, line) for line in lines), (told, run.output)
    assert "Traceback" not in run.output
    assert "ActorDiedError" not in run.output, "no word of Ray's, which are in the log"
    assert "ActorDiedError" in (run.run_dir / "run.log").read_text()
    rows = [*run.rows(), *run.rows("metrics.dropped.jsonl")]
    for kind, number in {"engines": 2, "learners": 1}.items():
        assert sum(row.get(f"faults/{kind}", 0) for row in rows) >= number, kind
    assert run.fixed_metrics() == main_run.fixed_metrics()
    assert run.rows("eval.jsonl") == main_run.rows("eval.jsonl")
    for name, weight in run.weights().items():
        assert torch.equal(weight, main_run.weights()[name]), name
