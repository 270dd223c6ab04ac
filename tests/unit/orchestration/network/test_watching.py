"""The watch on real processes that answer as a gRPC server does, are killed, and are stopped; no Ray."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from orchestration.network import watch as watches
from orchestration.network import watching as threads
from orchestration.network.watch import Node, RayLostError, RayWatch
from orchestration.network.watching import explaining, watching
from orchestration.terminal.stopping import Stopping

SERVER = (
    "import sys, time, grpc; from concurrent.futures import ThreadPoolExecutor\n"
    "server = grpc.server(ThreadPoolExecutor(1)); port = server.add_insecure_port('127.0.0.1:0'); server.start()\n"
    "print(port, flush=True); time.sleep(600)"
)
EVENT_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Server:
    """A process that serves gRPC."""

    process: "subprocess.Popen[str]"
    address: str


@pytest.fixture
def server() -> Iterator[Server]:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Server(process=process, address=f"127.0.0.1:{int(process.stdout.readline())}")
        process.kill()


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "PROBE_EVERY_S", 0.05)
    monkeypatch.setattr(watches, "LOST_AFTER_S", 1.0)


def watch_of(server: Server, fail: object) -> RayWatch:
    return RayWatch(gcs_address=server.address, is_local=True, logs="logs", fail=fail, notice=print)  # type: ignore[arg-type]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_process_interrupts_whatever_the_main_thread_waits_for(server: Server, end: signal.Signals) -> None:
    def wait(watch: RayWatch) -> None:
        with watching(watch, list):
            time.sleep(2.0)
            assert watch.error is None, "it answers"
            server.process.send_signal(end)
            time.sleep(EVENT_TIMEOUT_S)

    with pytest.raises(RayLostError, match="GCS"), Stopping() as stopping:
        wait(watch_of(server, stopping.fail))


def test_a_failure_because_of_a_lost_process_names_it_at_once(server: Server) -> None:
    node = Node(address=server.address, is_own=True, residents=())
    watch = watch_of(server, lambda error: None)

    def work() -> None:
        with watching(watch, lambda: [node]), explaining(watch):
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait()
            raise RuntimeError("engine 0 died")

    with pytest.raises(RayLostError, match="raylet") as lost:
        work()
    assert str(lost.value.__cause__) == "engine 0 died"
    assert watch.error is lost.value


def test_a_failure_of_the_run_itself_stays_as_it_is(server: Server) -> None:
    watch = watch_of(server, lambda error: None)
    with pytest.raises(RuntimeError, match="its own fault"), watching(watch, list), explaining(watch):
        raise RuntimeError("its own fault")
    assert watch.error is None
