"""Fixtures of the integration tests; what they are made of is in support.py."""

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from processes import leaving_no_process
from small_disk import SmallDisk
from support import (
    ADAPTIVE,
    COMMAND_TIMEOUT_S,
    EIGHT,
    PROJECT_ROOT,
    RAY_FOLDER,
    SMALL,
    CommandRun,
    Head,
    RunCommand,
    await_rows,
    press_ctrl_c,
    reachable_ports,
    save_model,
    share_ray,
    wait_until,
)


@pytest.fixture(scope="session")
def tied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tied"), tied=True)


@pytest.fixture(scope="session")
def untied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("untied"), tied=False)


@pytest.fixture(scope="session")
def run_command(tied_model: Path) -> RunCommand:
    """Runs the command on the tied model with SMALL settings; overrides win.

    interrupt_after: rows, then `interrupt` ends it. meanwhile: called once the run owns its folder, with its process.
    disk: where run_dir lies.
    """

    def run(
        run_dir: Path,
        *overrides: str,
        interrupt_after: int | None = None,
        meanwhile: Callable[["subprocess.Popen[str]"], None] | None = None,
        disk: SmallDisk | None = None,
        interrupt: Callable[[int], None] = press_ctrl_c,
    ) -> CommandRun:
        command = [sys.executable, "orchestration/run.py", f"run_dir={run_dir}", f"model.path={tied_model}"]
        command += [*SMALL, *overrides]
        if disk is not None:
            command, run_dir = disk.command(command, folder=PROJECT_ROOT), disk.seen(run_dir)
        process = subprocess.Popen(
            command,
            cwd=PROJECT_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
            start_new_session=True,
        )
        if meanwhile is not None:
            assert wait_until(lambda: list(run_dir.glob(".owner-*")) or process.poll() is not None)
            meanwhile(process)
        interrupted_at = None
        if interrupt_after is not None:
            await_rows(run_dir / "metrics.jsonl", interrupt_after, process)
            assert reachable_ports(process.pid) == [], "a local run listens on loopback only"
            interrupted_at = time.monotonic()
            interrupt(process.pid)
        output, _ = process.communicate(timeout=COMMAND_TIMEOUT_S)
        ending_s = None if interrupted_at is None else time.monotonic() - interrupted_at
        finished = CommandRun(status=process.returncode, output=output, run_dir=run_dir, ending_s=ending_s)
        if finished.status in (0, 129, 130, 143):
            assert not list(RAY_FOLDER.glob(f"session_*_{process.pid}")), (
                "only failed runs leave Ray's folder, for a day"
            )
        assert finished.told_secrets() == {}, "whatever a run writes or fails with, secrets stay out"
        return finished

    return run


@pytest.fixture
def no_process_left() -> Iterator[None]:
    """Fails the test if it leaves a process of Ray or vLLM behind."""
    with leaving_no_process():
        yield


@pytest.fixture(scope="module")
def shared_ray() -> None:
    """This process is connected to the Ray that test files share; what a file starts in it, it ends."""
    share_ray()


@pytest.fixture(scope="module")
def no_shared_ray() -> None:
    """This process is connected to no Ray: for files that start their own."""
    ray.shutdown()


@pytest.fixture(scope="session")
def main_run(run_command: RunCommand, tmp_path_factory: pytest.TempPathFactory) -> CommandRun:
    """The main job, undisturbed: eight iterations by which others are judged."""
    run = run_command(tmp_path_factory.mktemp("main") / "run", *EIGHT, ADAPTIVE)
    assert run.status == 0, run.output
    return run


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """`ray start --head` with a job server on loopback."""
    server = f"127.0.0.1:{free_port()}"
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where a job finds `python`
    env = {**os.environ, "PATH": programs, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"  # or its end waits 30 s for services that do not exist
    start = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--head",
        "--block",
        "--port=0",
        f"--dashboard-port={server.rpartition(':')[2]}",
        f"--dashboard-agent-listen-port={free_port()}",  # the usual one belongs to the Ray that other tests share
    ]
    log = tmp_path_factory.mktemp("head") / "head.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*start, "--num-cpus=2", "--disable-usage-stats", "--include-dashboard=true"],
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        assert wait_until(lambda: is_listening(server) or process.poll() is not None), log.read_text()
        assert process.poll() is None, log.read_text()
        client = {**env, "RAY_API_SERVER_ADDRESS": f"http://{server}"}
        # the server answers before the agent that starts jobs is there
        assert wait_until(lambda: takes_jobs(client)), log.read_text()
        (address,) = re.findall(r"ray start --address='(.*)'", log.read_text())
        yield Head(client=client, address=address, process=process.pid)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def takes_jobs(client: dict[str, str]) -> bool:
    submit = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--no-wait", "--", "true"]
    return subprocess.run(submit, env=client, capture_output=True).returncode == 0


def is_listening(server: str) -> bool:
    host, _, port = server.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0
