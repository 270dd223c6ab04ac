"""GroupStream: prompts in, graded batches out, one iteration at a time.

It admits prompts as far as the staleness bound allows and gives out the batch of an iteration when it is complete;
groups without a gradient it replaces where asked. Which groups make a batch is the buffer's decision. The fleet sends
each group to the graders as it finishes; token data stays in Ray's object store until the batch is taken.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from orchestration.stream.admission import Admission
from orchestration.stream.graded_groups import GradedGroup
from orchestration.stream.order import Buffer
from orchestration.stream.positions import PositionSource, StreamPositions
from orchestration.stream.scoring_ahead import ScoringAhead
from rollout.contract import GroupSummary, SamplingSpec
from rollout.fleets.fleet import RolloutFleet
from rollout.prompts import PromptStream
from rollout.rewards.graders import await_verdicts

SCORING_POLL_S = 0.02  # how often the driver looks for the end of a scoring call while groups wait for it


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupTicket:
    """A group that finished, with references to its completions and to its verdicts."""

    place: int  # in the order of admission; a replacement has that of the group it stands in for
    group_ref: Any  # ObjectRef of a PromptGroup
    verdicts_ref: Any  # ObjectRef of a GroupVerdicts
    summary: GroupSummary
    submitted_at: float  # time.perf_counter()
    finished_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Resampling:
    """When a group is replaced by that of another prompt before it is trained, and how often an iteration tries."""

    has_gradient: Callable[[GradedGroup], bool]
    max_attempts: int  # rounds; a batch is then filled with what there is


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A prompt on its way through the engines."""

    place: int
    is_replacement: bool
    submitted_at: float  # time.perf_counter()


class GroupStream:
    """Generates and buffers; the loop's only view of the generation side."""

    def __init__(
        self,
        fleet: RolloutFleet,
        prompts: PromptStream,
        sampling: SamplingSpec,
        *,
        admission: Admission,
        buffer: Buffer[GroupTicket],
        resampling: Resampling | None,
        scoring: ScoringAhead | None,
        start_iteration: int,
        start_positions: StreamPositions,
        num_iterations: int,
        grading_timeout_s: float,
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
        self._grading_timeout_s = grading_timeout_s
        self._counts_failures = counts_failures  # whether rewards that fail count as 0
        self._admitted = start_iteration * admission.prompts_per_iteration
        self._wanted = num_iterations * admission.prompts_per_iteration
        self._positions = PositionSource(start_positions)
        self._open: dict[int, int] = {}  # place -> position, of what was admitted and not taken
        self._in_flight: dict[int, Submission] = {}  # by position
        self._replacements: dict[int, GroupTicket] = {}  # finished ones by place
        self._last_batch: dict[str, float] = {}

    def admit(self, published_version: int) -> None:
        """Sends the prompts to the engines that the staleness bound allows at this version; returns at once."""
        allowed = min(self._wanted, self._admission.allowed(published_version))
        for place in range(self._admitted, allowed):
            self._open[place] = self._submit(place, is_replacement=False)
        self._admitted = max(self._admitted, allowed)

    def take(self, iteration: int) -> list[GradedGroup]:
        """The batch of the iteration, in the order of admission.

        Waits for the engines to finish its groups, then for the graders, and again for the groups that replace those
        without a gradient; the version published at the time stays live.
        """
        while not self._buffer.ready(iteration):
            self._receive(self._buffer.settled(iteration))
        tickets = self._buffer.take(iteration)
        for ticket in tickets:
            del self._open[ticket.place]
        batch = _Batch(counts_failures=self._counts_failures)
        groups = batch.graded(tickets, timeout_s=self._grading_timeout_s)
        replaced = self._replace(tickets, groups, batch) if self._resampling is not None else {}
        if self._scoring is not None:
            self._scoring.end_batch()
        self._last_batch = batch.metrics() | replaced
        return groups

    def _replace(self, tickets: Sequence[GroupTicket], groups: list[GradedGroup], batch: "_Batch") -> dict[str, float]:
        """Puts other prompts' groups where `groups` holds one without a gradient; the metrics that tell of it.

        Which prompts is decided here, round by round and in the order of the batch, so that it depends on the rewards
        alone and not on who finishes first.
        """
        assert self._resampling is not None
        settled: dict[int, GroupTicket] = dict(enumerate(tickets))  # by slot
        num_replaced = attempts = 0
        while attempts < self._resampling.max_attempts:
            dull = [slot for slot, group in enumerate(groups) if not self._resampling.has_gradient(group)]
            if not dull:
                break
            places = [tickets[slot].place for slot in dull]
            for place in places:
                self._submit(place, is_replacement=True)
            while not all(place in self._replacements for place in places):
                self._receive([settled[slot] for slot in settled if slot not in dull])
            arrived = [self._replacements.pop(place) for place in places]
            settled |= dict(zip(dull, arrived, strict=True))
            for slot, group in zip(dull, batch.graded(arrived, timeout_s=self._grading_timeout_s), strict=True):
                groups[slot] = group
            num_replaced += len(dull)
            attempts += 1
        return {"group/replaced": float(num_replaced), "group/attempts": float(attempts)}

    def positions(self) -> StreamPositions:
        """What a resume after the batch taken last has to generate again, and where it goes on."""
        return self._positions.state(tuple(self._open.values()))

    def summary(self) -> dict[str, float]:
        """Times and rates of the batch that was taken last, by their names in metrics.jsonl."""
        return self._last_batch

    def _submit(self, place: int, *, is_replacement: bool) -> int:
        """Sends the next prompt to the engines; its position in the stream."""
        position = self._positions.next()
        self._in_flight[position] = Submission(
            place=place, is_replacement=is_replacement, submitted_at=time.perf_counter()
        )
        due = place // self._admission.prompts_per_iteration
        self._fleet.submit(self._prompts.prompt_at(position), self._sampling, due=due)
        return position

    def _receive(self, settled: Iterable[GroupTicket]) -> None:
        """Waits for groups to finish, and sorts them in; meanwhile the learner may score `settled`, of this batch.

        The weights are those of load(): between here and there lies neither a step nor a publish.
        """
        patience_s = math.inf
        if self._scoring is not None:
            groups = {ticket.summary.position: ticket.group_ref for ticket in settled}
            patience_s = SCORING_POLL_S if self._scoring.offer(groups) else math.inf
        for finished in self._fleet.await_finished(at_most_s=patience_s):
            submission = self._in_flight.pop(finished.summary.position)
            ticket = GroupTicket(
                place=submission.place,
                group_ref=finished.group_ref,
                verdicts_ref=finished.verdicts_ref,
                summary=finished.summary,
                submitted_at=submission.submitted_at,
                finished_at=finished.finished_at,
            )
            if submission.is_replacement:
                self._replacements[ticket.place] = ticket
            else:
                self._buffer.add(ticket)


class _Batch:
    """Waits for the graders of one batch, replacements included, and adds up what it took."""

    def __init__(self, *, counts_failures: bool) -> None:
        self._counts_failures = counts_failures
        self._tickets: list[GroupTicket] = []
        self._grade_s = 0.0
        self._num_timed_out = self._num_failed = 0

    def graded(self, tickets: Sequence[GroupTicket], *, timeout_s: float) -> list[GradedGroup]:
        """The groups in the tickets' order, with their verdicts; waits for the graders."""
        generated_at = time.perf_counter()
        answers = await_verdicts([ticket.verdicts_ref for ticket in tickets], timeout_s=timeout_s)
        self._grade_s += time.perf_counter() - generated_at
        self._tickets.extend(tickets)
        self._num_timed_out += sum(answer.timed_out for answer in answers)
        self._num_failed += sum(answer.num_failed for answer in answers)
        groups = ray.get([ticket.group_ref for ticket in tickets])
        return [
            GradedGroup(group=group, verdicts=answer.verdicts) for group, answer in zip(groups, answers, strict=True)
        ]

    def metrics(self) -> dict[str, float]:
        """Of all tickets, by their names in metrics.jsonl."""
        generate_s = max(t.finished_at for t in self._tickets) - min(t.submitted_at for t in self._tickets)
        found = {
            "time/generate_s": generate_s,
            "time/grade_s": self._grade_s,
            "rollout/tokens_per_s": sum(ticket.summary.num_tokens for ticket in self._tickets) / generate_s,
            "grading/timed_out": float(self._num_timed_out),
        }
        if self._counts_failures:
            found["grading/failed"] = float(self._num_failed)
        return found
