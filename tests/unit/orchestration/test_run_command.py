"""The command as a person runs it: exit statuses, what is printed, what is imported, and how soon a mistake is told."""

import ast
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock

import pytest
from machine import slowdown
from small_disk import small_disk

import orchestration.run
from configs.loading import ConfigError
from configs.schema import RunConfig
from orchestration.placement import PlacementError
from orchestration.startup import preflight
from orchestration.startup.checks import memory
from orchestration.startup.checks.model_files import FoundModel
from orchestration.terminal.exit_status import exit_status
from orchestration.terminal.leaving import Terminated

ROOT = Path(__file__).resolve().parents[3]
RUN = ROOT / "orchestration" / "run.py"
HEAVY = ("torch", "vllm", "ray", "deepspeed", "transformers")
HEAVY_BEYOND_RAY = ("torch", "vllm", "deepspeed", "transformers", "matplotlib", "tensorboard")
HEAVY_IN_ACTORS = ("vllm", "deepspeed", "transformers", "torch._dynamo")
TIME_LIMIT_S = 5.0  # the promise of the command for a mistaken configuration
ADDRESS_LIMIT_S = 10.0  # and for a cluster that does not answer


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return python(str(RUN), *arguments, folder=folder)


def python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """Configurations that reach a session that only writes them down; it fails where seed is 13."""
    reached: list[RunConfig] = []

    def train(config: RunConfig, *, notices: tuple[str, ...], settings: Sequence[str]) -> None:
        reached.append(config)
        if config.seed == 13:
            raise PlacementError("asked for 3 engines,\n there are 2")

    session = ModuleType("orchestration.session")
    session.train = train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "orchestration.session", session)
    return reached


def test_mistakes_end_with_status_2_one_line_each_and_soon(tmp_path: Path) -> None:
    start = time.monotonic()
    ended = run("gate=softsing", "rollout.num_engine=2", "learner.lr=-1", folder=tmp_path)
    elapsed_s = time.monotonic() - start
    assert ended.returncode == 2
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["gate=softsing", "rollout.num_engine=2", "learner.lr=-1"]
    assert elapsed_s < TIME_LIMIT_S * slowdown()
    assert list(tmp_path.iterdir()) == []


def test_mistakes_about_the_machine_are_told_as_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file" / "ray"))
    (tmp_path / "file").touch()
    start = time.monotonic()
    ended = run("model.path=/no/such/model", "run_dir=file/run", folder=tmp_path)
    elapsed_s = time.monotonic() - start
    assert (ended.returncode, ended.stdout) == (2, "")
    told = [line.partition("=")[0] for line in ended.stderr.splitlines()]
    assert told == ["run_dir", "RAY_TMPDIR", "model.path"]
    assert elapsed_s < TIME_LIMIT_S * slowdown()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_cluster_that_does_not_answer_is_told_as_a_mistake(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        ended = run(f"cluster.address={address}", "run_dir=run", folder=tmp_path)
        elapsed_s = time.monotonic() - start
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"cluster.address={address}: what answers there is no Ray cluster ")
    assert elapsed_s < ADDRESS_LIMIT_S * slowdown()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reason", ["no room is left there", "the file system is read-only"])
def test_disks_that_take_nothing_are_told_before_anything_starts(reason: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        if "read-only" in reason:
            disk.make_read_only()
        else:
            disk.fill()
        words = ["env", f"HOME={disk.path}/home", f"RAY_TMPDIR={disk.path}/r", "--unset=SOFTGATE_CACHE"]
        command = disk.command([*words, sys.executable, str(RUN), f"run_dir={disk.path}/run"], folder=tmp_path)
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    lines = ended.stderr.splitlines()
    assert {line.partition("=")[0] for line in lines} == {"run_dir", "HOME", "RAY_TMPDIR"}
    assert all(f"cannot be written, because {reason}; " in line for line in lines), lines


def test_a_signal_as_soon_as_the_command_runs_ends_it_with_its_line(tmp_path: Path) -> None:
    """While it still imports: its last handler is that of SIGHUP."""
    for number, status, words in ((signal.SIGINT, 130, "interrupted"), (signal.SIGHUP, 129, "hung up (SIGHUP)")):
        process = subprocess.Popen([sys.executable, str(RUN)], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        while not catches(process.pid, signal.SIGHUP):
            assert process.poll() is None
        process.send_signal(number)
        assert process.communicate(timeout=300) == (None, f"softgate: {words}\n")
        assert process.returncode == status
    assert list(tmp_path.iterdir()) == []


def catches(process_id: int, number: int) -> bool:
    """Whether the process has a handler for the signal."""
    (mask,) = re.findall(r"^SigCgt:\t(\w+)$", Path(f"/proc/{process_id}/status").read_text(), flags=re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_dry_run_from_any_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    ended = run("-m", "gate=softsign,clip", "dry_run=true", folder=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.count("Batch arithmetic") == 2
    assert list(tmp_path.iterdir()) == []


def test_an_inadmissible_gate_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_gates.py").write_text(
        "import torch\n"
        "class Leaky:\n"
        "    def value(self, ratio, positive):\n"
        "        return torch.log1p(ratio)\n"  # slope 1 / (1 + ratio): 1/2 at ratio 1, and largest at 0
        "def make():\n"
        "    return Leaky()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ended = run("gate=custom", "gate.factory=my_gates:make", "run_dir=run", folder=tmp_path)
    assert ended.returncode == 2, ended.stderr
    lines = ended.stderr.splitlines()
    assert any(line.startswith("gate.factory=my_gates:make: (ii) ") for line in lines), lines
    assert all(line.endswith("or set gate.allow_inadmissible=true to train with it anyway") for line in lines), lines
    assert not (tmp_path / "run").exists()


def test_help(tmp_path: Path) -> None:
    ended = run("--help", folder=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "gate=       arctan | clip | custom | dapo | erf | grpo | power | sapo | sigmoid | softsign" in ended.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["-m", "seed=0,1", "dry_run=true"]], ids=str)
def test_a_reader_that_has_left_is_no_error(arguments: list[str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does once it has its lines
    command = [sys.executable, str(RUN), *arguments]
    ended = subprocess.run(
        command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=300, check=False
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_nothing_heavy_is_imported_before_the_configuration_is_accepted(tmp_path: Path) -> None:
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['run.py', 'dry_run=true']; sys.path.insert(0, {str(RUN.parent)!r})\n"
        "try:\n"
        f"    runpy.run_path({str(RUN)!r}, run_name='__main__')\n"
        "except SystemExit as ended:\n"
        "    assert ended.code == 0, ended.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], {str(RUN.parent)!r} in sys.path)\n"
    )
    ended = python("-c", program, folder=tmp_path)
    assert ended.stdout.splitlines()[-1:] == ["[] False"], ended.stderr


def test_a_driver_imports_nothing_of_the_actors_before_it_starts_them(tmp_path: Path) -> None:
    program = (
        "import sys, orchestration.session, orchestration.gate_notices, orchestration.loop, orchestration.parts\n"
        f"print([name for name in {HEAVY_IN_ACTORS!r} if name in sys.modules])\n"
    )
    ended = python("-c", program, folder=tmp_path)
    assert ended.stdout.splitlines()[-1:] == ["[]"], ended.stderr


def test_nothing_heavy_is_imported_before_the_cluster_has_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    program = (
        "import sys; from orchestration.run import main\n"
        "status = main(['rollout.num_engines=100000', 'cluster.address=local', 'run_dir=run'])\n"
        "import ray, orchestration.session\n"
        f"print(status, ray.is_initialized(), [name for name in {HEAVY_BEYOND_RAY!r} if name in sys.modules])\n"
    )
    ended = python("-c", program, folder=tmp_path)
    assert ended.stdout.splitlines()[-1:] == ["1 False []"], ended.stderr
    assert ended.stderr.startswith("softgate: the cluster is too small: the run needs 100000 engine(s)")


def test_runs_of_a_sweep_are_trained_in_order(trained: list[RunConfig]) -> None:
    assert orchestration.run.main(["-m", "gate=erf,clip", "seed=0,1"]) == 0
    assert [(config.gate.name, config.seed) for config in trained] == [("erf", 0), ("erf", 1), ("clip", 0), ("clip", 1)]


def test_one_mistake_in_a_sweep_starts_no_run(trained: list[RunConfig], capsys: pytest.CaptureFixture[str]) -> None:
    assert orchestration.run.main(["-m", "seed=0,-1"]) == 2
    assert capsys.readouterr().err == "seed=-1: must be greater than or equal to 0\n"
    assert trained == []


def test_a_failing_run_ends_the_sweep_with_status_1(
    trained: list[RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert orchestration.run.main(["-m", "seed=0,13,1"]) == 1
    assert capsys.readouterr().err == "softgate: asked for 3 engines, there are 2\n"
    assert [config.seed for config in trained] == [0, 13]


def test_a_dry_run_does_not_train_and_says_what_it_looked_at(
    trained: list[RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert orchestration.run.main(["dry_run=true"]) == 0
    assert trained == []
    block = capsys.readouterr().out.partition("\nChecks\n")[2]
    assert [line.split("  ")[1] for line in block.splitlines()][:4] == ["your own code", "versions", "ports", "cluster"]


def test_a_dry_run_with_a_mistake_is_printed_and_ends_with_status_2(
    trained: list[RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert orchestration.run.main(["-m", "seed=0,1", "dry_run=true", "model.path=/no/such/model"]) == 2
    printed = capsys.readouterr()
    assert printed.out.count("Batch arithmetic") == 2
    assert printed.err == "model.path=/no/such/model: no such folder; correct the path\n"


def test_a_doubt_reaches_the_run(trained: list[RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_bytes", lambda: (2**60, 0))
    noted: list[tuple[str, ...]] = []
    monkeypatch.setattr(
        sys.modules["orchestration.session"], "train", lambda _, notices, settings: noted.append(notices)
    )
    assert orchestration.run.main(["cluster.device=cpu"]) == 0
    ((line,),) = noted
    assert line.startswith("model.path=embedded: with 298,880 parameters the run needs at least ")


def test_runs_of_a_sweep_share_what_they_ask(monkeypatch: pytest.MonkeyPatch, trained: list[RunConfig]) -> None:
    asked: list[str] = []
    monkeypatch.setattr(preflight, "find_model", lambda model: asked.append(model.path) or FoundModel(found="here"))
    assert orchestration.run.main(["-m", "seed=0,1,2", "model.path=a/b,c/d"]) == 0
    assert asked == ["a/b", "c/d"]


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (ConfigError(["a: b", "c: d"]), 2, "a: b\nc: d\n"),
        (KeyboardInterrupt(), 130, "softgate: interrupted\n"),
        (Terminated(signal.SIGTERM), 143, "softgate: terminated (SIGTERM)\n"),
        (Terminated(signal.SIGHUP), 129, "softgate: hung up (SIGHUP)\n"),
        (PlacementError("too small"), 1, "softgate: too small\n"),
    ],
)
def test_exit_status(error: BaseException, status: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(error) == status
    assert capsys.readouterr().err == told


def test_errors_that_are_not_ours_keep_their_traceback(
    trained: list[RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError("CUDA error")
    assert exit_status(error) is None
    monkeypatch.setattr(sys.modules["orchestration.session"], "train", Mock(side_effect=error))
    with pytest.raises(RuntimeError) as caught:
        orchestration.run.main([])
    assert caught.value is error


def test_the_command_stays_small_and_defines_no_class() -> None:
    source = RUN.read_text()
    assert len(source.splitlines()) <= 40
    assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(source)))
