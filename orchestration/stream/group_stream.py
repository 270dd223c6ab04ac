"""GroupStream: prompts in, graded batches out, one iteration at a time.

It admits prompts as far as the staleness bound allows and gives out the batch of an iteration when it is complete;
groups without a gradient it replaces where asked. Which groups make a batch is the buffer's decision. The fleet sends
each group to the graders as it finishes; token data stays in Ray's object store until the batch is taken.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import ray
from ray.exceptions import NodeDiedError, ObjectLostError

from orchestration.stream.order import Admission, Buffer
from orchestration.stream.positions import PositionSource, StreamPositions
from orchestration.stream.score_dispatch import ScoreDispatcher
from rollout.contract import GradedGroup, PromptGroup, SamplingSpec
from rollout.fleets.fleet import FinishedGroup, RolloutFleet
from rollout.prompts import PromptStream
from rollout.rewards.graders import await_verdicts

SCORING_POLL_S = 0.02  # how often the driver looks for the end of a scoring call while groups wait for it


class GroupsLost(RuntimeError):
    """Finished groups are gone with the node that held them; they can be generated again from a checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resampling:
    """When a group is replaced by that of another prompt before it is trained, and how often an iteration tries."""

    has_gradient: Callable[[GradedGroup], bool]
    max_attempts: int  # rounds; a batch is then filled with what there is


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A prompt that was submitted to the fleet."""

    admission_index: int  # admissions before it in the run; a replacement has that of the group it replaces
    is_replacement: bool
    submitted_at: float  # time.perf_counter()


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrivedGroup:
    """A group that the fleet delivered, until its batch is taken.

    Example: admission_index=24 is the group at position 40, which was submitted at 3.1 s and finished at 3.9 s.
    """

    submission: Submission
    finished: FinishedGroup

    @property
    def admission_index(self) -> int:
        return self.submission.admission_index


class GroupStream:
    """Generates and buffers; the loop's only view of the generation side."""

    def __init__(
        self,
        fleet: RolloutFleet,
        prompts: PromptStream,
        sampling: SamplingSpec,
        *,
        admission: Admission,
        buffer: Buffer[ArrivedGroup],
        resampling: Resampling | None,
        scoring: ScoreDispatcher | None,
        start_iteration: int,
        start_positions: StreamPositions,
        num_iterations: int,
        counts_failures: bool,
    ) -> None:
        """fleet: one that has what it finishes graded. buffer: empty, beginning at start_iteration.

        resampling: None where every group is trained. scoring: None where the learner scores whole batches, or none.
        """
        self._fleet = fleet
        self._prompts = prompts
        self._sampling = sampling
        self._admission = admission
        self._buffer = buffer
        self._resampling = resampling
        self._scoring = scoring
        self._counts_failures = counts_failures  # whether rewards that fail count as 0 and have a metric
        self._admitted = start_iteration * admission.prompts_per_iteration
        self._wanted = num_iterations * admission.prompts_per_iteration
        self._positions = PositionSource(start_positions)
        self._open: dict[int, int] = {}  # admission index -> position, of what was admitted and not taken
        self._in_flight: dict[int, Submission] = {}  # submissions by position
        self._replacements: dict[int, ArrivedGroup] = {}  # replacements that have arrived, by admission index
        self._last_batch: dict[str, float] = {}

    def admit(self, published_version: int) -> None:
        """Sends the prompts to the engines that the staleness bound allows at this version; returns at once."""
        allowed = min(self._wanted, self._admission.allowed(published_version))
        for admission_index in range(self._admitted, allowed):
            self._open[admission_index] = self._submit(admission_index, is_replacement=False)
        self._admitted = max(self._admitted, allowed)

    def take(self, iteration: int) -> list[GradedGroup]:
        """The batch of the iteration, in the order of admission.

        Waits for the engines to finish its groups, then for the graders, and again for the groups that replace those
        without a gradient; the version published at the time stays live.
        """
        while not self._buffer.ready(iteration):
            self._receive(self._buffer.settled(iteration))
        batch = _Batch(counts_failures=self._counts_failures)
        batch.add(self._buffer.take(iteration))
        for admission_index in batch.groups:
            del self._open[admission_index]
        replaced = {} if self._resampling is None else self._replace(batch, self._resampling)
        if self._scoring is not None:
            self._scoring.end_batch()
        self._last_batch = batch.metrics() | replaced
        return list(batch.groups.values())

    def _replace(self, batch: "_Batch", resampling: Resampling) -> dict[str, float]:
        """Puts other prompts' groups where the batch holds one without a gradient; metrics of the replacement.

        Which prompts is decided here, round by round and in the order of the batch, so that it depends on the rewards
        alone and not on who finishes first.
        """
        num_replaced = attempts = 0
        while attempts < resampling.max_attempts:
            zero_variance = [index for index, graded in batch.groups.items() if not resampling.has_gradient(graded)]
            if not zero_variance:
                break
            for index in zero_variance:
                self._submit(index, is_replacement=True)
            settled = [arrived for index, arrived in batch.arrived.items() if index not in zero_variance]
            while not all(index in self._replacements for index in zero_variance):
                self._receive(settled)
            batch.add([self._replacements.pop(index) for index in zero_variance])
            num_replaced += len(zero_variance)
            attempts += 1
        return {"group/replaced": float(num_replaced), "group/attempts": float(attempts)}

    def positions(self) -> StreamPositions:
        """Positions that a resume after the batch taken last has to generate again, and the next new one."""
        return self._positions.state(tuple(self._open.values()))

    def summary(self) -> dict[str, float]:
        """Times and rates of the batch that was taken last, by their names in metrics.jsonl."""
        return self._last_batch

    def _submit(self, admission_index: int, *, is_replacement: bool) -> int:
        """Sends the next prompt to the engines; its position in the stream."""
        position = self._positions.next()
        self._in_flight[position] = Submission(
            admission_index=admission_index, is_replacement=is_replacement, submitted_at=time.perf_counter()
        )
        due = admission_index // self._admission.prompts_per_iteration
        self._fleet.submit(self._prompts.prompt_at(position), self._sampling, due=due)
        return position

    def _receive(self, settled: Iterable[ArrivedGroup]) -> None:
        """Waits for groups to finish and buffers them; meanwhile the learner may score `settled`, of this batch.

        The weights are those of load(): between here and there lies neither a step nor a publish.
        """
        patience_s = math.inf
        if self._scoring is not None:
            groups = {arrived.finished.summary.position: arrived.finished.group_ref for arrived in settled}
            patience_s = SCORING_POLL_S if self._scoring.offer(groups) else math.inf
        for finished in self._fleet.await_finished(at_most_s=patience_s):
            arrived = ArrivedGroup(submission=self._in_flight.pop(finished.summary.position), finished=finished)
            if arrived.submission.is_replacement:
                self._replacements[arrived.admission_index] = arrived
            else:
                self._buffer.add(arrived)


class _Batch:
    """One batch on its way through the graders, and what all its groups cost, those that were replaced included."""

    def __init__(self, *, counts_failures: bool) -> None:
        self.groups: dict[int, GradedGroup] = {}  # groups by admission index, in the order of the batch
        self.arrived: dict[int, ArrivedGroup] = {}  # the same groups before grading, likewise
        self._counts_failures = counts_failures
        self._all: list[ArrivedGroup] = []
        self._grade_s = 0.0
        self._num_timed_out = self._num_failed = 0

    def add(self, arrived: Sequence[ArrivedGroup]) -> None:
        """Waits for the graders of these groups; each takes the place of the group with its admission index."""
        groups = _fetched(arrived)
        generated_at = time.perf_counter()
        answers = await_verdicts([each.finished.verdicts_ref for each in arrived])
        self._grade_s += time.perf_counter() - generated_at
        self._num_timed_out += sum(answer.timed_out for answer in answers)
        self._num_failed += sum(answer.num_failed for answer in answers)
        self._all.extend(arrived)
        for each, group, answer in zip(arrived, groups, answers, strict=True):
            self.arrived[each.admission_index] = each
            self.groups[each.admission_index] = GradedGroup(group=group, verdicts=answer.verdicts)

    def metrics(self) -> dict[str, float]:
        """Times and rates of all groups, by their names in metrics.jsonl."""
        finished_at = max(each.finished.finished_at for each in self._all)
        generate_s = finished_at - min(each.submission.submitted_at for each in self._all)
        found = {
            "time/generate_s": generate_s,
            "time/grade_s": self._grade_s,
            "rollout/tokens_per_s": sum(each.finished.summary.num_tokens for each in self._all) / generate_s,
            "grading/timed_out": float(self._num_timed_out),
        }
        if self._counts_failures:
            found["grading/failed"] = float(self._num_failed)
        return found


def _fetched(arrived: Sequence[ArrivedGroup]) -> list[PromptGroup]:
    """The groups themselves; GroupsLost where a node is gone."""
    try:
        groups: list[PromptGroup] = ray.get([each.finished.group_ref for each in arrived])
    except (ObjectLostError, NodeDiedError) as error:
        raise GroupsLost("finished groups were lost with a node of the cluster") from error
    return groups
