"""What the channel does with peers that fail: stand-ins for ranks and engines, and for the Ray that asks them."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayTaskError

from configs.schema import PublishConfig
from learner.sender import SendReport
from orchestration.weight_channel import Probe, PublishError, WeightChannel
from rollout.contract import EngineReceipt
from transfer import answers

SENT = {"model.embed_tokens": "aa", "model.layers.0": "bb"}


CONFIRMS = "confirms whatever version is published"


@dataclass(frozen=True, eq=False)
class Answer:
    """A reference to what a peer will answer, after delay_s of a clock that only waiting moves."""

    value: Any
    delay_s: float = 0.0


class FakeRay:
    """Ray's wait and get for such references."""

    def wait(self, refs: list[Answer], *, num_returns: int, timeout: float) -> tuple[list[Answer], list[Answer]]:
        done = [ref for ref in refs if ref.delay_s <= timeout][:num_returns]
        return done, [ref for ref in refs if ref not in done]

    def get(self, ref: Answer) -> Any:
        if isinstance(ref.value, Exception):
            raise RayTaskError("call", "Traceback (most recent call last) ...", ref.value)
        return ref.value


@pytest.fixture(autouse=True)
def _fake_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "ray", FakeRay())


def receipt(index: int, version: int, digests: dict[str, str] | None = None) -> EngineReceipt:
    return EngineReceipt(engine_index=index, version=version, digests=(digests or SENT,), paused_s=index + 0.5)


def channel(
    receipts: list[Any], *, delay_s: float = 0.0, timeout_s: float = 30.0, probe_error: float = 0.0
) -> WeightChannel:
    """A channel whose engines answer `receipts` and whose probe is off by probe_error nats."""
    sent = SendReport(digests=SENT, num_bytes=1000, send_s=0.01)
    learner = SimpleNamespace(
        parameter_groups=lambda: [],
        changing_groups=lambda: [],
        address_and_free_port=lambda: ("127.0.0.1", 1),
        submit=lambda method, *_: [Answer(sent if method == "send_weights" else None)],
        score=lambda tokens, _: np.zeros(len(tokens) - 1),
    )
    fleet = SimpleNamespace(
        engines=[f"engine {index}" for index in range(len(receipts))],
        num_workers=len(receipts),
        workers_per_engine=1,
        start_connect=lambda _: {index: Answer(None) for index in range(len(receipts))},
        start_receive=lambda version, _, verify: {
            index: Answer(receipt(0, version) if item is CONFIRMS else item, delay_s)
            for index, item in enumerate(receipts)
        },
        call=lambda *_, timeout_s: {index: np.full(3, probe_error) for index in range(len(receipts))},
    )
    config = PublishConfig(timeout_s=timeout_s, probe_every=5)
    probe = Probe(token_ids=np.arange(4, dtype=np.int32), tolerance=1e-3)
    return WeightChannel(learner, fleet, config, backend="gloo", probe=probe)  # type: ignore[arg-type]


def test_a_publish_that_all_confirm_reports_what_it_moved() -> None:
    report = channel([receipt(0, 5), receipt(1, 5)]).publish(5)
    assert (report.version, report.num_bytes, report.probe_difference) == (5, 1000, 0.0)
    assert report.metrics()["publish/gigabytes_per_s"] == pytest.approx(1e-4)


def test_the_probe_runs_at_the_first_publish_at_version_1_and_every_fifth() -> None:
    probed = channel([CONFIRMS])
    differences = {version: probed.publish(version).probe_difference for version in (3, 4, 5, 6, 1)}
    assert differences == {3: 0.0, 4: None, 5: 0.0, 6: None, 1: 0.0}


def test_engines_tell_for_how_long_they_stood_still() -> None:
    assert channel([receipt(0, 0), receipt(1, 0)]).publish(0).metrics()["engine/paused_s"] == 1.0


@pytest.mark.parametrize(
    ("receipts", "message"),
    [
        ([receipt(0, 2), receipt(1, 1)], "engine 1 serves version 1, published 2"),
        (
            [receipt(0, 2), receipt(1, 2, {**SENT, "model.layers.0": "xx"})],
            r"engine 1 \(worker 0\) .* parameter group model.layers.0: digest xx instead of bb",
        ),
        (
            [receipt(0, 2, {"model.embed_tokens": "aa"})],
            r"engine 0 .* parameter group model.layers.0: digest None instead of bb",
        ),
        ([receipt(0, 2), ValueError("out of memory")], "engine 1 failed during the publish: ValueError: out of memory"),
    ],
)
def test_an_engine_that_did_not_get_the_weights_is_named(receipts: list[Any], message: str) -> None:
    with pytest.raises(PublishError, match=message):
        channel(receipts).publish(2)


def test_a_silent_engine_ends_the_wait_and_is_named() -> None:
    with pytest.raises(PublishError, match=r"no answer within publish.timeout_s=1 s from engine 0, engine 1"):
        channel([receipt(0, 1), receipt(1, 1)], delay_s=4.0, timeout_s=1.0).publish(1)


def test_equal_bytes_with_other_logprobs_fail_the_probe() -> None:
    with pytest.raises(PublishError, match=r"engine 0 computes other logprobs than the learner at version 0.*0.2 nats"):
        channel([receipt(0, 0)], probe_error=0.2).publish(0)
