"""What the integration tests share: small models without a warm start, and the command run as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from orchestration.embedded_model import EmbeddedRecipe, new_model, new_tokenizer

PROJECT_ROOT = Path(__file__).resolve().parents[2]
COMMAND_TIMEOUT_S = 400.0
VARYING = ("time/", "throughput/", "/tokens_per_s", "gigabytes_per_s", "memory/")  # metrics that depend on the clock
SMALL = (
    "experiment=smoke",
    "rollout.prompts_per_iteration=4",
    "rollout.completions_per_prompt=4",
    "rollout.max_new_tokens=16",
    "eval.num_prompts=4",
    "journal.tensorboard=false",
    "journal.rollouts_per_iteration=4",
)


def save_model(folder: Path, *, tied: bool) -> Path:
    """The embedded model's shape with random weights; enough wherever what is learnt does not matter."""
    recipe = replace(EmbeddedRecipe(), tied_embeddings=tied)
    torch.manual_seed(0)
    new_model(recipe).save_pretrained(folder)
    new_tokenizer(recipe).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tied"), tied=True)


@pytest.fixture(scope="session")
def untied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("untied"), tied=False)


@dataclass(frozen=True, kw_only=True)
class CommandRun:
    """A finished `python orchestration/run.py`."""

    status: int
    output: str
    run_dir: Path

    def rows(self, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run_dir / file).read_text().splitlines()]

    def fixed_metrics(self) -> list[dict[str, float]]:
        """The rows without what depends on the clock."""
        return [{k: v for k, v in row.items() if not any(part in k for part in VARYING)} for row in self.rows()]

    def texts(self, iteration: int) -> list[str]:
        rows = [row for row in self.rows("rollouts.jsonl") if row["iteration"] == iteration]
        return [completion["text"] for row in rows for completion in row["completions"]]


RunCommand = Callable[..., CommandRun]


@pytest.fixture(scope="session")
def run_command(tied_model: Path) -> RunCommand:
    """Runs the command on the tied model with SMALL settings; overrides win. interrupt_after: rows, then Ctrl-C."""

    def run(run_dir: Path, *overrides: str, interrupt_after: int | None = None) -> CommandRun:
        command = [sys.executable, "orchestration/run.py", f"run_dir={run_dir}", f"model.path={tied_model}"]
        process = subprocess.Popen(
            [*command, *SMALL, *overrides],
            cwd=PROJECT_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )
        if interrupt_after is not None:
            _await_rows(run_dir / "metrics.jsonl", interrupt_after, process)
            process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=COMMAND_TIMEOUT_S)
        return CommandRun(status=process.returncode, output=output, run_dir=run_dir)

    return run


def _await_rows(metrics: Path, count: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + COMMAND_TIMEOUT_S
    while not metrics.exists() or len(metrics.read_text().splitlines()) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{metrics} has not reached {count} rows"
        time.sleep(0.05)


def actor_processes() -> set[int]:
    """Processes of Ray and vLLM that are alive on this machine."""
    found = set()
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        is_ours = any(mark in line for mark in ("raylet", "gcs_server", "ray::", "VLLM::", "rollout.grader_child"))
        if is_ours and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.add(process.pid)
    return found


@pytest.fixture
def no_process_left() -> Iterator[None]:
    """Fails the test if it leaves a process of Ray or vLLM behind, 10 s after its end."""
    before = actor_processes()
    yield
    deadline = time.monotonic() + 10.0
    while actor_processes() - before and time.monotonic() < deadline:
        time.sleep(0.2)
    left = actor_processes() - before
    assert not left, [psutil.Process(pid).cmdline() for pid in left]
