"""What the integration tests share: small models without a warm start, finished commands, and who is still alive."""

import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
from safetensors.torch import load_file

from orchestration.journal.trace import read_spans
from rollout.tasks.embedded_model import EmbeddedRecipe, new_model, new_tokenizer
from tests.chaos.checks import fixed
from transfer.spans import Span

# Secrets of the environment, which every process inherits and no file of a run may hold.
SECRETS = {name: f"secret_{secrets.token_hex(16)}" for name in ("HF_TOKEN", "WANDB_API_KEY", "RAY_AUTH_TOKEN")}
os.environ.update(SECRETS)
RAY_FOLDER = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray"
PROJECT_ROOT = Path(__file__).resolve().parents[2]
COMMAND_TIMEOUT_S = 800.0  # of a run that takes 20 s on two idle cores
EVENT_TIMEOUT_S = 120.0  # of what happens within a second there
NAMED_WITHIN_S = 15.0  # the promise, on an idle machine, for a process of Ray or a node that is gone
SMALL = (
    "experiment=smoke",
    "rollout.prompts_per_iteration=4",
    "rollout.completions_per_prompt=4",
    "rollout.max_new_tokens=16",
    "eval.num_prompts=4",
    "journal.tensorboard=false",
    "journal.rollouts_per_iteration=4",
)
# Of runs that are interrupted, and of those by which these are judged.
EIGHT = (
    "num_iterations=8",
    "checkpoint.every=3",
    "learner.lr_schedule=constant",
)
ADAPTIVE = "gate.adaptive.target_eur=0.95"  # state of the gate that a resume must bring back


def wait_until(is_true: Callable[[], bool], *, timeout_s: float = EVENT_TIMEOUT_S) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def share_ray() -> None:
    """Starts the Ray of two CPUs that the tests of this process share, unless it runs; its workers import the tests."""
    if not ray.is_initialized():
        folders = [PROJECT_ROOT, PROJECT_ROOT / "tests", PROJECT_ROOT / "tests/integration"]
        paths = os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])
        settings = {"env_vars": {"PYTHONPATH": paths}}
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=settings)


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
    ending_s: float | None = None  # seconds from its interruption, if there was one

    def rows(self, file: str = "metrics.jsonl") -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.run_dir / file).read_text().splitlines()]

    def fixed_metrics(self) -> list[dict[str, float]]:
        """The rows without what depends on the clock."""
        return [fixed(row) for row in self.rows()]

    def told_secrets(self) -> dict[str, list[str]]:
        """Where the command has written a secret of its environment, by the variable's name."""
        texts = {str(path): path.read_bytes() for path in self.run_dir.rglob("*") if path.is_file()}
        texts["its output"] = self.output.encode()
        places = {name: [at for at, text in texts.items() if key.encode() in text] for name, key in SECRETS.items()}
        return {name: found for name, found in places.items() if found}

    def texts(self, iteration: int) -> list[str]:
        rows = [row for row in self.rows("rollouts.jsonl") if row["iteration"] == iteration]
        return [completion["text"] for row in rows for completion in row["completions"]]

    def spans(self) -> list[Span]:
        json.loads((self.run_dir / "trace.json").read_text())
        return read_spans(self.run_dir / "trace.json")

    def weights(self) -> dict[str, torch.Tensor]:
        """Weights of the final model."""
        return load_file(self.run_dir / "model/model.safetensors")


@dataclass(frozen=True, kw_only=True)
class Head:
    """A Ray cluster of one node that `ray start` has started."""

    client: dict[str, str]  # environment in which `ray job submit` reaches it
    address: str  # host:port
    process: int  # id of `ray start`, whose children are Ray's processes


RunCommand = Callable[..., CommandRun]


def press_ctrl_c(driver: int) -> None:
    os.killpg(driver, signal.SIGINT)  # a terminal sends it to the whole group, Ray's processes included


def kill_ray_process(driver: int, name: str) -> None:
    """Kills the process of Ray with this name, as the kernel does when memory is out."""
    (process,) = (child for child in psutil.Process(driver).children() if name in child.name())
    process.kill()


def reachable_ports(driver: int) -> list[str]:
    """Ports on which the command or what it has started listens, and not on loopback alone."""
    found = []
    for process in [psutil.Process(driver), *psutil.Process(driver).children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            for socket in process.net_connections("tcp"):
                ip = ip_address(socket.laddr.ip)
                ip = getattr(ip, "ipv4_mapped", None) or ip
                if socket.status == psutil.CONN_LISTEN and not ip.is_loopback:
                    found.append(f"{ip}:{socket.laddr.port} of {' '.join(process.cmdline())}")
    return found


def await_rows(metrics: Path, count: int, process: "subprocess.Popen[str]") -> None:
    def has_rows() -> bool:
        assert process.poll() is None, process.communicate()[0]
        return metrics.exists() and len(metrics.read_text().splitlines()) >= count

    assert wait_until(has_rows, timeout_s=COMMAND_TIMEOUT_S), f"{metrics} has not reached {count} rows"
