"""The start of a local Ray that times out, as a fake: one time-out is survived, two are one line."""

import os
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from configs.loading import ConfigError, load_config
from orchestration import cluster
from orchestration.cluster import start_cluster
from orchestration.network.session_folders import FAILED, MARKER
from orchestration.terminal.exit_status import MISCONFIGURED, exit_status

TIMED_OUT = "The current node timed out\n  during startup."


class FakeRay:
    """Stands for Ray and for what is reserved in it; the first `num_failures` starts time out as Ray's do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, *, num_failures: int) -> None:
        self._num_failures = num_failures
        self.folder = folder / "ray"  # Ray's, with a folder for each start
        monkeypatch.setenv("RAY_TMPDIR", str(folder))
        self.environment: dict[str, str] = {}
        self.events: list[str] = []
        monkeypatch.setattr(ray, "init", self.init)
        monkeypatch.setattr(ray, "shutdown", lambda: self.events.append("end"))
        monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
        monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:1"))
        monkeypatch.setattr(cluster, "watching", lambda *_: nullcontext())
        monkeypatch.setattr(cluster, "local_resources", lambda: {"CPU": 2.0})
        monkeypatch.setattr(cluster, "Cluster", lambda *_, **__: self)

    def init(self, **_: object) -> SimpleNamespace:
        self.events.append("start")
        self.environment = dict(os.environ)
        session = self.folder / f"session_{len(self.events)}_{os.getpid()}"
        session.mkdir(parents=True)
        if self.events.count("start") <= self._num_failures:
            raise Exception(TIMED_OUT)
        return SimpleNamespace(address_info={"session_dir": str(session)})

    def explaining(self) -> nullcontext[None]:
        return nullcontext()

    def living_nodes(self) -> list[object]:
        return []

    def release(self) -> None:
        self.events.append("release")


def run() -> None:
    config = load_config(["cluster.address=local"])
    with start_cluster(config.cluster, config.rollout, config.learner) as reserved:
        reserved.events.append("run")


@pytest.mark.parametrize("num_failures", [0, 1])
def test_a_start_that_timed_out_is_tried_once_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, num_failures: int
) -> None:
    fake = FakeRay(monkeypatch, tmp_path, num_failures=num_failures)
    run()
    assert fake.events == ["start", "end"] * num_failures + ["start", "run", "release", "end"]
    assert list(fake.folder.iterdir()) == []


def test_two_time_outs_end_the_command_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = FakeRay(monkeypatch, tmp_path, num_failures=2)
    with pytest.raises(ConfigError) as refused:
        run()
    assert fake.events == ["start", "end"] * 2
    assert exit_status(refused.value) == MISCONFIGURED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Ray did not start on this machine in 2 attempts (The current node timed out ")
    assert "is it busy or out of memory?" in line
    (last,) = fake.folder.iterdir()
    assert (last.name, (last / MARKER).read_text()) == (f"session_3_{os.getpid()}", FAILED), "its logs stay for a day"


def test_a_local_run_and_its_children_use_loopback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "chosen")
    fake = FakeRay(monkeypatch, tmp_path, num_failures=0)
    run()
    assert fake.environment["GLOO_SOCKET_IFNAME"] == "lo"
    assert fake.environment["VLLM_HOST_IP"] == "127.0.0.1"
    assert fake.environment["NCCL_SOCKET_IFNAME"] == "chosen"
    assert "GLOO_SOCKET_IFNAME" not in os.environ, "a later run may join a cluster"
