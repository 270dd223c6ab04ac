"""What the channel does with peers that fail: stand-ins for ranks and engines, and for the Ray that asks them."""

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError

from configs.schema import PublishConfig
from learner.group import LearnerLost
from learner.sender import SendReport
from orchestration.weight_channel import Probe, PublishError, WeightChannel
from rollout.contract import EngineReceipt
from rollout.fleets.fleet import EngineLost
from transfer import answers
from transfer.answers import PeerStuck
from transfer.patience import Patience

SENT = {"model.embed_tokens": "aa", "model.layers.0": "bb"}


CONFIRMS = "confirms whatever version is published"


@dataclass(frozen=True, eq=False)
class Answer:
    """A reference to what a peer will answer, after delay_s of a clock that only waiting moves."""

    value: Any
    delay_s: float = 0.0


class FakeRay:
    """Ray's wait and get for such references, and the clock."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def wait(self, refs: list[Answer], *, num_returns: int, timeout: float) -> tuple[list[Answer], list[Answer]]:
        done = [ref for ref in refs if ref.delay_s <= self.now + timeout][:num_returns]
        self.now = max([self.now, *(ref.delay_s for ref in done)]) if done else self.now + timeout
        return done, [ref for ref in refs if ref not in done]

    def get(self, ref: Answer) -> Any:
        if isinstance(ref.value, RayError):
            raise ref.value
        if isinstance(ref.value, Exception):
            raise RayTaskError("call", "Traceback (most recent call last) ...", ref.value)
        return ref.value


@pytest.fixture(autouse=True)
def _fake_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeRay()
    monkeypatch.setattr(answers, "ray", fake)
    monkeypatch.setattr(answers, "Patience", partial(Patience, clock=fake.clock))


def receipt(index: int, version: int, digests: dict[str, str] | None = None) -> EngineReceipt:
    return EngineReceipt(engine_index=index, version=version, digests=(digests or SENT,), paused_s=index + 0.5)


def give_up(name: str, lost: dict[int, RayActorError]) -> None:
    raise LearnerLost(f"{name}: {lost}")


def channel(
    receipts: list[Any],
    *,
    delay_s: float = 0.0,
    timeout_s: float = 30.0,
    probe_error: float = 0.0,
    unwell: dict[str, dict[int, RayActorError]] | None = None,
    lost: dict[str, dict[int, RayActorError]] | None = None,
) -> WeightChannel:
    """A channel whose engines answer `receipts` and whose probe is off by probe_error nats.

    unwell: "learner" and "fleet", those that do not answer when they are asked whether they are well. lost: those of
    which this is known.
    """
    sent = SendReport(digests=SENT, num_bytes=1000, send_s=0.01)
    nobody: dict[str, dict[int, RayActorError]] = {"learner": {}, "fleet": {}}
    found, known = nobody | (unwell or {}), nobody if lost is None else lost
    learner = SimpleNamespace(
        lost=lambda: known["learner"],
        unwell=lambda: found["learner"],
        give_up=give_up,
        parameter_groups=lambda: [],
        changing_groups=lambda: [],
        submit=lambda method, *_: [Answer(sent if method == "send_weights" else None)],
        score=lambda tokens, _: np.zeros(len(tokens) - 1),
    )
    fleet = SimpleNamespace(
        lost=lambda: known["fleet"],
        unwell=lambda _, **__: found["fleet"],
        numbers=set(range(len(receipts))),
        engines=[f"engine {index}" for index in range(len(receipts))],
        num_workers=len(receipts),
        workers_per_engine=1,
        start_connect=lambda _: {index: Answer(None) for index in range(len(receipts))},
        start_receive=lambda version, _, verify: {
            index: item
            if isinstance(item, Answer)
            else Answer(receipt(0, version) if item is CONFIRMS else item, delay_s)
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
    assert differences == {3: None, 4: None, 5: 0.0, 6: None, 1: 0.0}, "the first one is not told: it has no turn"
    with pytest.raises(PublishError, match="computes other logprobs"):
        channel([CONFIRMS], probe_error=0.2).publish(3)


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


def test_an_engine_that_is_silent_where_all_others_have_answered_is_lost() -> None:
    with pytest.raises(EngineLost, match=r"engine 1 failed: no answer within publish.timeout_s=30 s"):
        channel([CONFIRMS, Answer(None, 1e6)]).publish(1)


def test_equal_bytes_with_other_logprobs_fail_the_probe() -> None:
    with pytest.raises(PublishError, match=r"engine 0 computes other logprobs than the learner at version 0.*0.2 nats"):
        channel([receipt(0, 0)], probe_error=0.2).publish(0)


def test_a_broken_publish_is_blamed_on_those_that_are_not_well_and_not_on_those_that_tell_of_it() -> None:
    broken = ConnectionError("connection closed by peer")
    stuck = PeerStuck("did not answer for 60 s")
    with pytest.raises(EngineLost, match="engine 1 failed: did not answer for 60 s") as lost:
        channel([broken, receipt(1, 2)], unwell={"fleet": {1: stuck}}).publish(2)
    assert lost.value.causes == {1: stuck}
    with pytest.raises(EngineLost, match="engine 1 failed: did not answer for 60 s"):
        channel([receipt(0, 1), receipt(1, 1)], delay_s=4.0, timeout_s=1.0, unwell={"fleet": {1: stuck}}).publish(1)
    with pytest.raises(LearnerLost, match=r"publish: .*did not answer"):
        channel([broken, broken], unwell={"learner": {0: stuck}, "fleet": {1: stuck}}).publish(2)


def test_the_next_publish_first_waits_for_what_a_broken_one_has_left() -> None:
    """Engine 0 is inside the broken publish for 10 s, engine 1 dies in it and is replaced by an engine that answers."""
    receipts: list[Any] = [Answer(RuntimeError("connection closed"), 10.0), ActorDiedError()]
    found: dict[str, dict[int, RayActorError]] = {"learner": {}, "fleet": {}}
    broken = channel(receipts, lost=found)
    with pytest.raises(EngineLost, match="engine 1"):
        broken.publish(2)
    receipts[:] = [CONFIRMS, CONFIRMS]
    assert broken.publish(2).version == 2
    assert answers.ray.now >= 10.0

    receipts[:] = [Answer(None, 1e6), ActorDiedError()]
    with pytest.raises(EngineLost, match="engine 1"):
        broken.publish(3)
    found["fleet"] = {0: PeerStuck("did not answer for 60 s")}
    with pytest.raises(EngineLost, match="engine 0 failed: did not answer for 60 s"):
        broken.publish(3)
    assert answers.ray.now < 30.0, "it waits for nobody who is lost meanwhile"

    found["fleet"] = {}
    with pytest.raises(EngineLost, match="engine 1"):
        broken.publish(3)
    with pytest.raises(EngineLost, match=r"engine 0 failed: hung in a publish for publish.timeout_s=30 s"):
        broken.publish(3)
