"""What the integration tests share: small models without a warm start, finished commands, and who is still alive."""

import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from rollout.tasks.embedded_model import EmbeddedRecipe, new_model, new_tokenizer

SESSION_VARIABLE = "SOFTGATE_TEST_SESSION"  # every process that a test starts inherits it
os.environ[SESSION_VARIABLE] = secrets.token_hex(8)
PROJECT_ROOT = Path(__file__).resolve().parents[2]
COMMAND_TIMEOUT_S = 400.0
# Metrics that depend on the clock.
VARYING = ("time/", "idle/", "throughput/", "/tokens_per_s", "gigabytes_per_s", "memory/", "engine/paused")
SMALL = (
    "experiment=smoke",
    "rollout.prompts_per_iteration=4",
    "rollout.completions_per_prompt=4",
    "rollout.max_new_tokens=16",
    "eval.num_prompts=4",
    "journal.tensorboard=false",
    "journal.rollouts_per_iteration=4",
)
# Of the main job.
EIGHT = (
    "num_iterations=8",
    "checkpoint.every=3",
    "learner.lr_schedule=constant",
    "gate.adaptive.target_eur=0.95",  # state of the gate that a resume must bring back
)


def save_model(folder: Path, *, tied: bool) -> Path:
    """The embedded model's shape with random weights; enough wherever what is learnt does not matter."""
    recipe = replace(EmbeddedRecipe(), tied_embeddings=tied)
    torch.manual_seed(0)
    new_model(recipe).save_pretrained(folder)
    new_tokenizer(recipe).save_pretrained(folder)
    return folder


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


def await_rows(metrics: Path, count: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + COMMAND_TIMEOUT_S
    while not metrics.exists() or len(metrics.read_text().splitlines()) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"{metrics} has not reached {count} rows"
        time.sleep(0.05)


def command_lines() -> dict[int, str]:
    """Of every living process that descends from this test session, by process id; others may run beside it."""
    found = {}
    for process in psutil.process_iter(["cmdline", "status", "environ"]):
        is_ours = (process.info["environ"] or {}).get(SESSION_VARIABLE) == os.environ[SESSION_VARIABLE]
        if is_ours and process.info["status"] != psutil.STATUS_ZOMBIE:
            found[process.pid] = " ".join(process.info["cmdline"] or [])
    return found


def actor_processes() -> set[int]:
    """Processes of Ray and vLLM among them."""
    marks = ("raylet", "gcs_server", "ray::", "VLLM::", "rollout.rewards.grader_child")
    return {pid for pid, line in command_lines().items() if any(mark in line for mark in marks)}
