"""GroupStream: prompts in, graded batches out, one iteration at a time.

It admits prompts as far as the staleness bound allows, hands finished groups to the graders as they finish, and gives
out the batch of an iteration when it is complete. Token data stays in Ray's object store until then.
"""

import time
from dataclasses import dataclass
from typing import Any

import ray

from orchestration.buffer import Admission, GradedGroup, GroupBuffer
from rollout.contract import GroupSummary, SamplingSpec
from rollout.fleet import FinishedGroup, RolloutFleet
from rollout.graders import GraderPool, await_verdicts
from rollout.prompts import PromptStream


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupTicket:
    """A group that finished, with references to its completions and to its verdicts."""

    group_ref: Any  # ObjectRef of a PromptGroup
    verdicts_ref: Any  # ObjectRef of a GroupVerdicts
    summary: GroupSummary
    finished_at: float  # time.perf_counter()

    @property
    def prompt_index(self) -> int:
        return self.summary.prompt_index


class GroupStream:
    """Generates, grades and buffers; the loop's only view of the generation side."""

    def __init__(
        self,
        fleet: RolloutFleet,
        graders: GraderPool,
        prompts: PromptStream,
        sampling: SamplingSpec,
        *,
        admission: Admission,
        start_iteration: int,
        num_iterations: int,
        grading_timeout_s: float,
        counts_failures: bool,
    ) -> None:
        self._fleet = fleet
        self._graders = graders
        self._prompts = prompts
        self._sampling = sampling
        self._admission = admission
        self._grading_timeout_s = grading_timeout_s
        self._counts_failures = counts_failures  # extra rewards that fail count as 0, and are told
        self._admitted = start_iteration * admission.prompts_per_iteration
        self._wanted = num_iterations * admission.prompts_per_iteration
        self._buffer: GroupBuffer[GroupTicket] = GroupBuffer(
            admission.prompts_per_iteration, start_iteration=start_iteration
        )
        self._admitted_at: dict[int, float] = {}  # by iteration
        self._last_batch: dict[str, float] = {}

    def admit(self, published_version: int) -> None:
        """Sends the prompts to the engines that the staleness bound allows at this version; returns at once."""
        allowed = min(self._wanted, self._admission.allowed(published_version))
        for position in range(self._admitted, allowed):
            self._admitted_at.setdefault(position // self._admission.prompts_per_iteration, time.perf_counter())
            self._fleet.submit(self._prompts.prompt_at(position), self._sampling)
        self._admitted = max(self._admitted, allowed)

    def take(self, iteration: int) -> list[GradedGroup]:
        """The batch of the iteration, in prompt order.

        Waits for the engines to finish its groups, then for the graders; the version published at the time stays live.
        """
        while not self._buffer.ready(iteration):
            self._pass_on(self._fleet.await_finished())
        generated_at = time.perf_counter()
        tickets = self._buffer.take(iteration)
        verdicts = await_verdicts([ticket.verdicts_ref for ticket in tickets], timeout_s=self._grading_timeout_s)
        graded_at = time.perf_counter()
        groups = ray.get([ticket.group_ref for ticket in tickets])
        generate_s = max(t.finished_at for t in tickets) - self._admitted_at.pop(iteration)
        self._last_batch = {
            "time/generate_s": generate_s,
            "time/grade_s": graded_at - generated_at,
            "rollout/tokens_per_s": sum(ticket.summary.num_tokens for ticket in tickets) / generate_s,
            "grading/timed_out": float(sum(answer.timed_out for answer in verdicts)),
        }
        if self._counts_failures:
            self._last_batch["grading/failed"] = float(sum(answer.num_failed for answer in verdicts))
        return [
            GradedGroup(group=group, verdicts=answer.verdicts) for group, answer in zip(groups, verdicts, strict=True)
        ]

    def poll(self) -> None:
        """Hands the graders what has finished meanwhile; the loop calls it between two steps. Waits for nothing."""
        self._pass_on(self._fleet.finished())

    def _pass_on(self, groups: list[FinishedGroup]) -> None:
        """Moves finished groups on to the graders; verdicts come while other groups still generate."""
        for finished in groups:
            ticket = GroupTicket(
                group_ref=finished.group_ref,
                verdicts_ref=self._graders.grade(finished.group_ref),
                summary=finished.summary,
                finished_at=time.perf_counter(),
            )
            self._buffer.add(ticket)

    def summary(self) -> dict[str, float]:
        """Times and rates of the batch that was taken last, by their names in metrics.jsonl."""
        return self._last_batch
