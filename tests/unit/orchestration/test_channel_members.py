"""WeightChannel where engines join and leave between publishes; peers that answer at once, without Ray."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from configs.schema import PublishConfig
from orchestration import weight_channel
from orchestration.weight_channel import Probe, WeightChannel
from rollout.contract import EngineReceipt
from transfer.answers import Answers


class Learner:
    """One rank that notes where it meets engines and whether it sends all weights."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def parameter_groups(self) -> list[str]:
        return ["frozen", "adapted"]

    def changing_groups(self) -> list[str]:
        return ["adapted"]

    def submit(self, method: str, *arguments: Any) -> list[Any]:
        if method == "connect":
            self.events.append(f"{arguments[0].world_size} meet")
            return [None]
        _, only_changing = arguments
        self.events.append("send changing" if only_changing else "send all")
        return [SimpleNamespace(digests={}, num_bytes=1, send_s=1.0)]

    def lost(self) -> dict[int, Any]:
        return {}

    def unwell(self) -> dict[int, Any]:
        return {}

    def score(self, token_ids: np.ndarray, _: int) -> np.ndarray:
        return np.zeros(len(token_ids) - 1)


class Fleet:
    """Engines that confirm every version."""

    workers_per_engine = 1

    numbers = frozenset[int]()

    def lost(self) -> dict[int, Any]:
        return {}

    def unwell(self, engines: frozenset[int], *, for_publish: bool) -> dict[int, Any]:
        return {}

    def __init__(self, *engines: str) -> None:
        self.members = dict(enumerate(engines))
        self.received: list[list[str]] = []
        self.num_probed = 0

    @property
    def engines(self) -> list[str]:
        return list(self.members.values())

    @property
    def num_workers(self) -> int:
        return len(self.members)

    def start_connect(self, rendezvous: Any) -> dict[int, Any]:
        return dict.fromkeys(self.members)

    def start_receive(self, version: int, groups: list[str], *, verify: bool) -> dict[int, Any]:
        self.received.append(groups)
        return {
            engine: EngineReceipt(engine_index=engine, version=version, digests=({},), paused_s=0.0)
            for engine in self.members
        }

    def call(self, method: str, token_ids: np.ndarray, _: int, *, timeout_s: float) -> dict[int, np.ndarray]:
        self.num_probed += 1
        return {engine: np.zeros(len(token_ids) - 1) for engine in self.members}


def is_proven(channel: WeightChannel, fleet: Fleet, version: int) -> bool:
    """Whether the publish compares logprobs; its report says nothing of it, as the turn of none of these has come."""
    before = fleet.num_probed
    assert channel.publish(version).probe_difference is None
    return fleet.num_probed > before


def test_engines_that_changed_meet_anew_and_all_get_all_weights_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        weight_channel, "await_answers", lambda calls, **_: Answers(results=calls, failures={}, silent=())
    )
    learner, fleet = Learner(), Fleet("a", "b")
    channel = WeightChannel(
        learner,  # type: ignore[arg-type]
        fleet,  # type: ignore[arg-type]
        PublishConfig(verify_every=100, probe_every=100),
        backend="gloo",
        probe=Probe(token_ids=np.arange(4, dtype=np.int32), tolerance=1e-3),
    )
    proven = {version: is_proven(channel, fleet, version) for version in (2, 3)}
    fleet.members.pop(1)
    proven[4] = is_proven(channel, fleet, 4)
    fleet.members[1] = "successor of b"
    proven |= {version: is_proven(channel, fleet, version) for version in (5, 6)}

    first = ["3 meet", "send all", "send changing"]
    assert learner.events == [*first, "2 meet", "send all", "3 meet", "send all", "send changing"]
    everything, changing = ["frozen", "adapted"], ["adapted"]
    assert fleet.received == [everything, changing, everything, everything, changing]
    assert proven == {2: True, 3: False, 4: True, 5: True, 6: False}
