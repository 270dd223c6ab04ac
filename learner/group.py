"""LearnerGroup: all ranks of the learner as one object, called in lockstep.

In: a LearnerSpec and reserved bundles of a Ray placement group, one a rank. Out: results by rank, or a LearnerError
that names the rank. Refuses to know what a call computes; DeepSpeed lives in the ranks' processes only.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import ray
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from configs.recovery import RecoveryConfig
from learner.checkpoints.shared_folder import SHARED_FOLDER_REMEDY
from learner.contract import StepReport, TrainBatch
from learner.spec import LearnerSpec
from transfer.answers import PeerStuck, await_answers, reason
from transfer.fingerprints import Fingerprint, size_of
from transfer.heartbeats import Heartbeats
from transfer.ports import reserve_port
from transfer.quick_start import quick_start
from transfer.spans import Span, SpanLog
from transfer.wire import ParameterGroup

STAGES = {"save": "checkpoint", "is_saving": "checkpoint", "await_saved": "checkpoint"}  # a call's name in messages
# Worker methods that are recorded as spans, with the names of their spans.
SPAN_NAMES = {"score_ahead": "score", "load": "load", "step": "step", "send_weights": "send"}
HEALTH = "health"  # threads of a rank that answer while the rank is in a call
MODEL_CONFIG_FILE = "config.json"  # what every Hugging Face folder has


class LearnerError(RuntimeError):
    """A rank failed; the message names it. The group is shut down."""


class LearnerLost(LearnerError):
    """A rank died or is stuck; another group, started in the same bundles, can go on from a checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RankStatus:
    """Memory, scoring and spans of one rank."""

    peak_memory_bytes: float
    scored_ahead_share: float  # share of the loaded batch's completions
    spans: tuple[Span, ...]  # calls since the last status


class RankProcess:
    """The Ray actor of one rank: a process with its threads set, in which start() builds the worker."""

    def address_and_free_port(self) -> tuple[str, int]:
        """This node's address and a port reserved there, to which peers of this rank connect."""
        address: str = ray.util.get_node_ip_address()
        return address, reserve_port(address)

    @ray.method(concurrency_group=HEALTH)
    def alive(self) -> None:
        """Answers at once, whatever the rank does."""

    def start(self, spec: LearnerSpec, rank: int, world_size: int, master_address: str, master_port: int) -> None:
        self._spans = SpanLog("learner", rank)
        with quick_start():
            from learner.worker import LearnerWorker  # imports torch and DeepSpeed: in this process only

            self._worker = LearnerWorker(
                spec, rank=rank, world_size=world_size, master_address=master_address, master_port=master_port
            )

    def call(self, method: str, *args: Any) -> Any:
        if method not in SPAN_NAMES:
            return getattr(self._worker, method)(*args)
        with self._spans.span(SPAN_NAMES[method]):
            return getattr(self._worker, method)(*args)

    def status(self) -> RankStatus:
        return RankStatus(
            peak_memory_bytes=self._worker.peak_memory_bytes(),
            scored_ahead_share=self._worker.scored_ahead_share(),
            spans=self._spans.drain(),
        )

    def apply(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(self._worker, *args)


class LearnerGroup:
    """The ranks of one learner; every method runs on all of them and waits for all."""

    def __init__(
        self,
        spec: LearnerSpec,
        *,
        placement_group: PlacementGroup,
        bundle_indices: Sequence[int],
        cpus_per_rank: float,
        gpus_per_rank: float,
        start_timeout_s: float,
        recovery: RecoveryConfig,
        while_waiting: Callable[[], object] = lambda: None,
    ) -> None:
        """Starts one rank a bundle and loads the model. LearnerError where a rank fails or start_timeout_s passes.

        while_waiting: called again and again in every wait for the ranks.
        """
        self.spec = spec
        self.num_ranks = len(bundle_indices)
        self._saving_to = Path()  # folder of the last save()
        self._scoring: list[dict[int, ray.ObjectRef]] = []  # score_ahead calls since the last batch
        self._health_timeout_s = recovery.health_timeout_s
        self._heartbeats = Heartbeats[int](every_s=recovery.health_every_s, timeout_s=recovery.health_timeout_s)
        self._while_waiting = while_waiting
        self._actors = [
            ray.remote(concurrency_groups={HEALTH: 1})(RankProcess)
            .options(
                num_cpus=cpus_per_rank,
                num_gpus=gpus_per_rank,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement_group=placement_group, placement_group_bundle_index=index
                ),
                runtime_env={"env_vars": _environment(spec, cpus_per_rank)},
            )
            .remote()
            for index in bundle_indices
        ]
        address, port = self._await("start", {0: self._actors[0].address_and_free_port.remote()}, start_timeout_s)[0]
        starting = {
            rank: actor.start.remote(spec, rank, self.num_ranks, address, port)
            for rank, actor in enumerate(self._actors)
        }
        self._await("start", starting, start_timeout_s)
        for rank, actor in enumerate(self._actors):
            self._heartbeats.watch(rank, actor.alive.remote)

    def score_ahead(self, part: TrainBatch) -> None:
        """Makes every rank compute logprobs of sequences of the next batch before load() needs them; does not wait.

        The weights must not change before that load(), which also raises the error of a rank that fails here.
        """
        self._scoring.append(dict(enumerate(self.submit("score_ahead", ray.put(part)))))

    @property
    def is_scoring(self) -> bool:
        """Whether a rank still computes what score_ahead() gave it."""
        calls = [call for by_rank in self._scoring[-1:] for call in by_rank.values()]
        return bool(calls) and len(ray.wait(calls, num_returns=len(calls), timeout=0)[0]) < len(calls)

    def load(self, batch: TrainBatch, iteration: int) -> None:
        """Gives every rank the iteration's batch and fixes the denominator of every ratio in it."""
        for calls in self._scoring:
            self._await("score_ahead", calls, self.spec.learner.timeout_s)
        self._scoring = []
        self.call("load", ray.put(batch), iteration)

    def steps(self) -> Iterator[StepReport]:
        """Takes the optimizer steps of the loaded iteration one by one; each report covers all ranks."""
        for index in range(self.spec.num_steps):
            yield self.call("step", index)[0]

    def score(self, token_ids: np.ndarray, prompt_length: int) -> np.ndarray:
        """Logprobs [C] float32 of a sequence's completion tokens ([P + C] ids) under the current weights."""
        return self.call("score", token_ids, prompt_length)[0]

    def save(self, path: str, *, pretrained: bool = False) -> None:
        """Copies all ranks' state; they go on to write it into an existing folder that every rank reaches.

        pretrained: with the weights as a Hugging Face folder. await_saved() must follow before the next save(), after
        any number of other calls. LearnerError where a rank does not see the folder.
        """
        self.call("save", path, pretrained)
        self._saving_to = Path(path)

    @property
    def is_saving(self) -> bool:
        """Whether a rank still writes what save() copied."""
        return any(self.call("is_saving"))

    def await_saved(self) -> dict[str, Fingerprint]:
        """Waits for what save() began; what the ranks wrote, by path below the folder.

        LearnerError where a rank could not write, or wrote into another folder than the driver sees.
        """
        by_rank: list[dict[str, Fingerprint]] = self.call("await_saved")
        folder = self._saving_to
        strangers = [
            rank
            for rank, files in enumerate(by_rank)
            if any(size_of(folder / name) != file.num_bytes for name, file in files.items())
        ]
        if strangers:
            self._fail(f"save: learner rank {_listed(strangers)} wrote to another {folder}; {SHARED_FOLDER_REMEDY}")
        return {name: file for files in by_rank for name, file in files.items()}

    def restore(self, path: str) -> None:
        """Continues from a folder that save() wrote, with any number of ranks and ZeRO stage; before the first step.

        LearnerError where another model or adapter was trained there.
        """
        self.call("restore", path)

    def save_pretrained(self, path: str) -> None:
        """Writes model and tokenizer into an existing folder that rank 0 reaches, as Hugging Face does."""
        self.call("save_pretrained", path)
        if not (Path(path) / MODEL_CONFIG_FILE).is_file():
            self._fail(f"save_pretrained: learner rank 0 wrote to another {path}; {SHARED_FOLDER_REMEDY}")

    def status(self) -> list[RankStatus]:
        """Memory, scoring and spans of every rank, by rank."""
        return self._run("status", lambda actor: actor.status.remote())

    def parameter_groups(self) -> list[ParameterGroup]:
        """Groups of parameters that a publish of all weights sends, in wire order."""
        return self.call("parameter_groups")[0]

    def changing_groups(self) -> list[ParameterGroup]:
        """Groups of parameters that hold every weight that training changes, in wire order."""
        return self.call("changing_groups")[0]

    def submit(self, method: str, *args: Any) -> list[ray.ObjectRef]:
        """Calls a method on all ranks without waiting; returns references by rank. For calls with an outside peer."""
        return [actor.call.remote(method, *args) for actor in self._actors]

    def call(self, method: str, *args: Any) -> list[Any]:
        """Calls a method of LearnerWorker on all ranks; returns results by rank, within learner.timeout_s."""
        return self._run(method, lambda actor: actor.call.remote(method, *args))

    def apply(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """Calls function(worker, *args) on all ranks; returns results by rank. function must be importable there."""
        return self._run(function.__name__, lambda actor: actor.apply.remote(function, *args))

    def shutdown(self) -> None:
        """Ends every rank's process; nothing else may be called afterwards."""
        for actor in self._actors:
            ray.kill(actor, no_restart=True)
        self._actors = []

    def lost(self) -> dict[int, RayActorError]:
        """Ranks that died or are stuck, as far as is known by now."""
        return self._heartbeats.lost()

    def check(self) -> None:
        """Raises LearnerLost where a rank is lost; for waits in which no rank is asked for anything."""
        if lost := self.lost():
            self.give_up("between two calls", lost)

    def unwell(self) -> dict[int, RayActorError]:
        """Asks every rank whether it is there, and waits: those that are not."""
        calls = {rank: actor.alive.remote() for rank, actor in enumerate(self._actors)}
        limit_s = self._health_timeout_s
        return await_answers(calls, timeout_s=limit_s).unwell(timeout_s=limit_s)

    def give_up(self, name: str, lost: Mapping[int, RayActorError]) -> NoReturn:
        """Ends the group in which these ranks were lost; name: of the call in which it was noticed."""
        self.shutdown()  # ranks still inside a collective would wait for the lost ones for ever
        raise LearnerLost(_describe(name, lost)) from lost[min(lost)]

    def _run(self, name: str, submit: Callable[[Any], ray.ObjectRef]) -> list[Any]:
        if not self._actors:
            raise LearnerError(f"{_stage(name)}: the learner group is shut down")
        calls = {rank: submit(actor) for rank, actor in enumerate(self._actors)}
        return self._await(name, calls, self.spec.learner.timeout_s)

    def _await(self, name: str, calls: dict[int, ray.ObjectRef], timeout_s: float) -> list[Any]:
        """Waits for all ranks; unblocked by their answers, by the first that fails, or by the time-out."""
        answers = await_answers(calls, timeout_s=timeout_s, lost=self._look)
        if len(answers.results) == len(calls):
            return list(answers.results.values())
        silent = {rank: PeerStuck(f"did not answer within {timeout_s:g} s") for rank in answers.silent}
        # A rank that fails may only tell that another one is gone, of which Ray does not know yet.
        lost = answers.dead or (self.unwell() if answers.failures else silent)
        if lost:
            self.give_up(name, lost)
        self.shutdown()  # ranks still inside a collective would wait for the failed one for ever
        raise LearnerError(_describe(name, answers.failures)) from answers.failures[min(answers.failures)]

    def _look(self) -> dict[int, RayActorError]:
        self._while_waiting()
        return self.lost()

    def _fail(self, message: str) -> NoReturn:
        self.shutdown()
        raise LearnerError(message)


def _environment(spec: LearnerSpec, cpus_per_rank: float) -> dict[str, str]:
    """Environment variables that a rank's process needs before it imports torch and DeepSpeed."""
    threads = {"OMP_NUM_THREADS": str(max(1, int(cpus_per_rank)))}
    return threads | {"DS_ACCELERATOR": "cpu"} if spec.device == "cpu" else threads


def _stage(call: str) -> str:
    return STAGES.get(call, call.replace("_", " "))


def _listed(ranks: Iterable[int]) -> str:
    return ", ".join(str(rank) for rank in sorted(ranks))


def _describe(name: str, failures: Mapping[int, RayError]) -> str:
    """Message with the failed ranks; ranks that raised the same error are named together."""
    ranks_by_message: dict[str, list[int]] = {}
    for rank, error in sorted(failures.items()):
        ranks_by_message.setdefault(reason(error), []).append(rank)
    by_message = ranks_by_message.items()
    return "; ".join(f"{_stage(name)}: learner rank {_listed(ranks)}: {text}" for text, ranks in by_message)
