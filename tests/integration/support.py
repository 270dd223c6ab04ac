"""What the integration tests share: small models without a warm start, finished commands, and who is still alive."""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
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


def command_lines() -> list[str]:
    """Of every process on this machine."""
    return [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]


def actor_processes() -> set[int]:
    """Processes of Ray and vLLM that are alive on this machine."""
    found = set()
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        is_ours = any(mark in line for mark in ("raylet", "gcs_server", "ray::", "VLLM::", "rollout.grader_child"))
        if is_ours and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.add(process.pid)
    return found
