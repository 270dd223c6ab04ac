"""Addresses of clusters: what a run is given, and what is said of those at which no cluster answers."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest
from machine import slowdown

from orchestration.startup.checks import cluster_address as module
from orchestration.startup.checks.cluster_address import LOCAL, check_address, cluster_address


@pytest.fixture(autouse=True)
def _no_cluster_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def refusal(address: str) -> str:
    (line,) = check_address(address).mistakes
    assert "\n" not in line
    return line


def test_auto_is_what_ray_address_names_and_else_a_ray_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cluster_address("auto") == LOCAL
    assert check_address("auto").mistakes == ()
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert cluster_address("auto") == LOCAL
    monkeypatch.setenv("RAY_ADDRESS", "head:1")
    assert (cluster_address("auto"), cluster_address("local"), cluster_address("b:2")) == ("head:1", LOCAL, "b:2")


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:0", "head:65536", "a b:1", "user@head:1", "[::1]"])
def test_what_is_no_address_is_refused_without_a_connection(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "within", lambda *_: pytest.fail("connects"))
    assert refusal(address) == f"cluster.address={address}: must be auto, local or host:port, as 10.0.0.1:6379"


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def web_port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_port_that_says_nothing_is_given_up(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 0.5)
    started = time.monotonic()
    line = refusal(f"127.0.0.1:{silent_port}")
    assert "what answers there is no Ray cluster (DEADLINE_EXCEEDED)" in line
    assert time.monotonic() - started < 5.0 * slowdown()


def test_a_web_server_is_no_cluster(web_port: int) -> None:
    assert "is no Ray cluster (UNAVAILABLE); give the port of `ray start --head`" in refusal(f"localhost:{web_port}")


class Answering(grpc.GenericRpcHandler):
    """Answers Ray's first request as a cluster does, or refuses its token; knows no other request."""

    def __init__(self, *, has_token: bool) -> None:
        self._has_token = has_token

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != module.CLUSTER_ID_REQUEST:
            return None

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if not self._has_token:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "token?")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.mark.parametrize("has_token", [True, False])
def test_a_cluster_answers_and_may_refuse_the_token(*, has_token: bool) -> None:
    server = grpc.server(ThreadPoolExecutor(1), handlers=(Answering(has_token=has_token),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        check = check_address(f"127.0.0.1:{port}")
    finally:
        server.stop(None)
    assert bool(check.mistakes) != has_token
    if has_token:
        assert check.found == f"answers at 127.0.0.1:{port}"
    else:
        assert "refuses this machine's token; set RAY_AUTH_MODE and RAY_AUTH_TOKEN" in check.mistakes[0]


def test_a_name_that_is_looked_up_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: (released.wait(60), socket.socket())[1])
    assert "nothing answers there (no answer within 0.2 s)" in refusal("slow-name:6379")
    released.set()
