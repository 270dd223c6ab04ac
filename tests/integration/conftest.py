"""Fixtures of the integration tests; what they are made of is in support.py."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support import (
    COMMAND_TIMEOUT_S,
    PROJECT_ROOT,
    SMALL,
    CommandRun,
    RunCommand,
    actor_processes,
    await_rows,
    save_model,
)


@pytest.fixture(scope="session")
def tied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tied"), tied=True)


@pytest.fixture(scope="session")
def untied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("untied"), tied=False)


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
            start_new_session=True,  # a terminal sends Ctrl-C to the whole group, Ray's processes included
        )
        if interrupt_after is not None:
            await_rows(run_dir / "metrics.jsonl", interrupt_after, process)
            os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=COMMAND_TIMEOUT_S)
        return CommandRun(status=process.returncode, output=output, run_dir=run_dir)

    return run


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
