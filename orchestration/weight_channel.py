"""WeightChannel: one publish is one version of the learner's weights in every engine, proven.

It brings sender and receivers together, starts both halves of a broadcast, waits for all with a time-out, and compares
digests, versions and, now and then, log-probabilities. It moves no bytes itself. Engines may change between publishes.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import ray
from ray.exceptions import RayActorError

from configs.schema import PublishConfig
from learner.group import LearnerGroup
from rollout.contract import EngineReceipt
from rollout.fleets.fleet import EngineLost, RolloutFleet
from transfer.answers import PeerStuck, await_answers, reason
from transfer.communicator import serve_store
from transfer.spans import Span
from transfer.transport import Backend, Rendezvous
from transfer.wire import ParameterGroup

if TYPE_CHECKING:  # imports transformers' models: seconds before the first actor starts
    from learner.sender import SendReport


Peer = tuple[Literal["learner rank", "engine"], int]


class PublishError(RuntimeError):
    """A publish did not reach an engine whole; the message names the peer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishReport:
    """What one publish moved."""

    version: int
    num_bytes: int  # bytes sent to each engine worker
    publish_s: float  # broadcast and digest check
    total_s: float  # the probe and, the first time, the rendezvous included
    send_s: float  # the broadcast alone, on learner rank 0
    paused_s: float  # engines sampled nothing because of it, mean over the engines
    probe_difference: float | None  # mean |engine - learner| logprob of the probe, nats; None if its turn has not come

    def metrics(self) -> dict[str, float]:
        found = {
            "time/publish_s": self.total_s,
            "publish/bytes": float(self.num_bytes),
            "publish/gigabytes_per_s": self.num_bytes / self.send_s / 1e9,
            "engine/paused_s": self.paused_s,
        }
        if self.probe_difference is not None:
            found["publish/probe_difference"] = self.probe_difference
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """A fixed sequence whose logprobs engines and learner must agree on."""

    token_ids: np.ndarray  # [T] int32
    tolerance: float  # nats, mean over the tokens


class WeightChannel:
    """Publishes from one LearnerGroup to one RolloutFleet."""

    def __init__(
        self, learner: LearnerGroup, fleet: RolloutFleet, config: PublishConfig, *, backend: Backend, probe: Probe
    ) -> None:
        self._learner = learner
        self._fleet = fleet
        self._config = config
        self._backend: Backend = backend
        self._probe = probe
        self._groups: list[ParameterGroup] = learner.parameter_groups()
        self._changing_groups: list[ParameterGroup] = learner.changing_groups()
        self._receivers: list[Any] = []  # engines that have all weights, by a publish over the present connection
        self._unfinished: dict[Peer, Any] = {}  # references of calls that a broken publish has left
        self._stores: list[Any] = []  # stores of the present connection and of the one before it
        self._engine_spans: list[Span] = []

    def _connect(self) -> None:
        """Brings learner rank 0 and every engine worker together at a new store."""
        self._receivers = []
        self._stores = [*self._stores[-1:], serve_store(ray.util.get_node_ip_address())]
        rendezvous = Rendezvous(
            backend=self._backend,
            host=self._stores[-1].host,
            port=self._stores[-1].port,
            world_size=1 + self._fleet.num_workers,
            timeout_s=self._config.timeout_s,
        )
        self._await(self._learner.submit("connect", rendezvous), self._fleet.start_connect(rendezvous))

    def publish(self, version: int) -> PublishReport:
        """Broadcasts the learner's weights as `version`; afterwards every engine samples from exactly these weights.

        All weights travel first, and again when engines have joined or left the fleet since the last publish; otherwise
        those that training changes.
        Waits for learner rank 0 (the bytes are out) and for every engine (the weights are loaded). Raises EngineLost or
        LearnerLost for peers that died or are stuck, of which the engines may be replaced before the next publish, and
        PublishError for another version, a digest that differs, a probe out of tolerance or any other failure.
        """
        begun = time.perf_counter()
        self._await_unfinished()
        # One that nobody has missed yet would keep the others waiting, with a part of the weights.
        self._raise_lost(self._unwell(for_publish=True))
        engines = self._fleet.engines
        is_first = engines != self._receivers
        if is_first:
            self._connect()
        # The first is always proven, after a resume too. So is version 1: until then the engines hold what they read
        # from disk, and a probe of equal weights proves little.
        is_early = is_first or version == 1
        verify = is_early or version % self._config.verify_every == 0
        started = time.perf_counter()
        groups = self._groups if is_first else self._changing_groups
        sending = self._learner.submit("send_weights", verify, not is_first)
        receiving = self._fleet.start_receive(version, groups, verify=verify)
        reports, receipts = self._await(sending, receiving)
        sent = reports[0]
        for receipt in receipts:
            self._engine_spans += receipt.spans
            self._check(receipt, sent, version, verify=verify)
        self._receivers = engines
        publish_s = time.perf_counter() - started
        # The difference is reported in its turn only, so that rows do not depend on which engines had to be replaced.
        is_regular = version == 1 or version % self._config.probe_every == 0
        difference = self._compare_logprobs(version) if is_early or is_regular else None
        return PublishReport(
            version=version,
            num_bytes=sent.num_bytes,
            publish_s=publish_s,
            total_s=time.perf_counter() - begun,
            send_s=sent.send_s,
            paused_s=sum(receipt.paused_s for receipt in receipts) / len(receipts),
            probe_difference=difference if is_regular else None,
        )

    def drain_engine_spans(self) -> tuple[Span, ...]:
        """What engines did until they answered the last publish; each span once."""
        spans = tuple(self._engine_spans)
        self._engine_spans.clear()
        return spans

    def _await(self, learner_refs: Sequence[Any], engine_refs: Mapping[int, Any]) -> tuple[list[Any], list[Any]]:
        """Waits for both halves; a failure ends the wait soon, since the peers would hang in the broadcast."""
        calls: dict[Peer, Any] = {("learner rank", rank): ref for rank, ref in enumerate(learner_refs)}
        calls |= {("engine", engine): ref for engine, ref in engine_refs.items()}
        answers = await_answers(calls, timeout_s=self._config.timeout_s, lost=self._lost)
        if len(answers.results) == len(calls):
            results = list(answers.results.values())
            return results[: len(learner_refs)], results[len(learner_refs) :]
        self._receivers = []
        self._stores = []  # in a rendezvous the others would wait for the lost one until its time-out
        self._unfinished = {peer: calls[peer] for peer in answers.silent}
        # What peers report may be the consequence of a death that Ray has not noticed; and a stopped peer silences all.
        self._raise_lost(answers.dead or self._unwell())
        for (kind, number), error in answers.failures.items():
            raise PublishError(f"{kind} {number} failed during the publish: {reason(error)}") from error
        late = f"no answer within publish.timeout_s={self._config.timeout_s:g} s"
        silent_engines = {peer: PeerStuck(late) for peer in answers.silent if peer[0] == "engine"}
        if len(silent_engines) == len(answers.silent) < len(engine_refs):  # all others have had what they needed
            self._raise_lost(silent_engines)
        silent = ", ".join(f"{kind} {number}" for kind, number in answers.silent)
        raise PublishError(f"{late} from {silent}")

    def _await_unfinished(self) -> None:
        """Waits for what a broken publish has left: the peers fail in it once the lost ones are ended."""
        if not self._unfinished:
            return
        stuck: dict[Peer, RayActorError] = {}
        for peer, call in self._unfinished.items():
            if await_answers({peer: call}, timeout_s=self._config.timeout_s, lost=self._lost).silent:
                stuck[peer] = PeerStuck(f"hung in a publish for publish.timeout_s={self._config.timeout_s:g} s")
        self._unfinished = {}
        self._raise_lost(stuck | self._lost())

    def _lost(self) -> dict[Peer, RayActorError]:
        return _peers(self._learner.lost(), self._fleet.lost())

    def _unwell(self, *, for_publish: bool = False) -> dict[Peer, RayActorError]:
        return _peers(self._learner.unwell(), self._fleet.unwell(self._fleet.numbers, for_publish=for_publish))

    def _raise_lost(self, lost: Mapping[Peer, RayActorError]) -> None:
        """Raises LearnerLost where a rank is among them, else EngineLost; nothing where none is lost."""
        ranks, engines = (
            {number: error for (kind, number), error in lost.items() if kind == wanted}
            for wanted in ("learner rank", "engine")
        )
        if ranks:
            self._learner.give_up("publish", ranks)
        if engines:
            raise EngineLost(engines)

    def _check(self, receipt: EngineReceipt, sent: "SendReport", version: int, *, verify: bool) -> None:
        if receipt.version != version:
            raise PublishError(f"engine {receipt.engine_index} serves version {receipt.version}, published {version}")
        if not verify:
            return
        if len(receipt.digests) != self._fleet.workers_per_engine:
            raise PublishError(
                f"engine {receipt.engine_index} answered for {len(receipt.digests)} of "
                f"{self._fleet.workers_per_engine} workers, version {version}"
            )
        for worker, digests in enumerate(receipt.digests):
            for label, expected in sent.digests.items():
                if digests.get(label) != expected:
                    raise PublishError(
                        f"engine {receipt.engine_index} (worker {worker}) received other bytes than the learner sent "
                        f"in parameter group {label}: digest {digests.get(label)} instead of {expected}, "
                        f"version {version}"
                    )

    def _compare_logprobs(self, version: int) -> float:
        # Equal bytes do not prove that the engine computes with them: a packed copy of a weight may have stayed behind.
        expected = self._learner.score(self._probe.token_ids, 1)
        answers = self._fleet.call("score", self._probe.token_ids, 1, timeout_s=self._config.timeout_s)
        differences = {engine: float(np.abs(answer - expected).mean()) for engine, answer in answers.items()}
        for engine, difference in differences.items():
            if not difference <= self._probe.tolerance:
                raise PublishError(
                    f"engine {engine} computes other logprobs than the learner at version {version}: they differ by "
                    f"{difference:.3g} nats a token, allowed {self._probe.tolerance:g}; "
                    f"its weights are not the published ones"
                )
        return max(differences.values())


def _peers(ranks: Mapping[int, RayActorError], engines: Mapping[int, RayActorError]) -> dict[Peer, RayActorError]:
    found: dict[Peer, RayActorError] = {("learner rank", rank): error for rank, error in ranks.items()}
    return found | {("engine", engine): error for engine, error in engines.items()}
