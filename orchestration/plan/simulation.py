"""A run under a fake clock: the loop of orchestration/loop.py, with the real admission rule and the real buffer.

In: a Workload and its Costs. Out: what each iteration took and where the time went. Only durations are made up; which
prompt may start when, and which groups make a batch, is decided by the code that decides it in a run.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestration.plan.costs import Costs, collective_bytes
from orchestration.plan.fake_clock import FakeClock, Process, Until, Work
from orchestration.plan.simulated_engine import SimulatedEngine, SimulatedGroup
from orchestration.stream.order import BatchOrder, Buffer, admission_for, buffer_for


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What a run asks for, in numbers."""

    prompts_per_iteration: int
    completions_per_prompt: int
    prompt_length: int  # tokens
    lengths: tuple[int, ...]  # a sample of completion lengths, tokens; each completion's is drawn from it
    max_staleness: int
    batch_order: BatchOrder
    publishes_inflight: bool  # False: engines finish what they have before they load new weights
    num_engines: int
    workers_per_engine: int
    max_sequences: int  # of an engine at a time
    kv_tokens: int  # room of an engine's key/value cache
    num_ranks: int
    num_minibatches: int
    num_epochs: int
    max_tokens: int  # of a micro-batch
    zero_stage: int
    recomputes_logprobs: bool
    keeps_reference: bool
    num_graders: int
    trained_parameters: int  # whose gradients ranks add up
    gathered_parameters: int  # of the learner's weights, frozen ones included
    published_parameters: int
    learner_weight_bytes: int  # of one weight
    wire_weight_bytes: int

    @property
    def num_devices(self) -> int:
        """Each engine worker and each rank with one of its own."""
        return self.num_engines * self.workers_per_engine + self.num_ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedIteration:
    """Seconds, and versions behind."""

    total_s: float
    wait_s: float  # the learner waits for its batch
    load_s: float
    update_s: float
    publish_s: float
    generate_s: float  # from the first of the batch's prompts to its last completion
    max_staleness: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Means over the iterations of a steady run, seconds; shares of an iteration, 0..1."""

    iteration_s: float
    wait_s: float
    load_s: float
    update_s: float
    publish_s: float
    generate_s: float
    learner_busy: float
    engines_busy: float
    max_staleness: int  # versions, the largest seen


def predict(workload: Workload, costs: Costs, *, num_iterations: int = 12, seed: int = 0) -> Prediction:
    """Simulates num_iterations after those in which the pipeline fills."""
    warmup = workload.max_staleness + 1
    run = SimulatedRun(workload, costs, num_iterations=warmup + num_iterations, seed=seed)
    iterations, busy_s = run.simulate(counted_from=warmup)

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values)

    iteration_s = mean([each.total_s for each in iterations])
    load_s, update_s = mean([each.load_s for each in iterations]), mean([each.update_s for each in iterations])
    return Prediction(
        iteration_s=iteration_s,
        wait_s=mean([each.wait_s for each in iterations]),
        load_s=load_s,
        update_s=update_s,
        publish_s=mean([each.publish_s for each in iterations]),
        generate_s=mean([each.generate_s for each in iterations]),
        learner_busy=(load_s + update_s) / iteration_s,
        engines_busy=busy_s / workload.num_engines / sum(each.total_s for each in iterations),
        max_staleness=max(each.max_staleness for each in iterations),
    )


class SimulatedRun:
    """One run; simulate() once."""

    def __init__(self, workload: Workload, costs: Costs, *, num_iterations: int, seed: int) -> None:
        self._workload = workload
        self._costs = costs
        self._num_iterations = num_iterations
        self._random = np.random.default_rng(seed)
        self._clock = FakeClock(costs.rate)
        self._admission = admission_for(
            workload.batch_order,
            prompts_per_iteration=workload.prompts_per_iteration,
            max_staleness=workload.max_staleness,
        )
        self._buffer: Buffer[SimulatedGroup] = buffer_for(
            workload.batch_order,
            prompts_per_iteration=workload.prompts_per_iteration,
            max_staleness=workload.max_staleness,
        )
        self._engines = [
            SimulatedEngine(
                costs=costs.engine,
                clock=self._clock,
                max_sequences=workload.max_sequences,
                kv_tokens=workload.kv_tokens,
                on_finished=self._grade,
            )
            for _ in range(workload.num_engines)
        ]
        self._ungraded: deque[SimulatedGroup] = deque()
        self._free_graders = workload.num_graders
        self._admitted = 0
        self._iterations: list[SimulatedIteration] = []
        self._counted_busy_s = 0.0

    def simulate(self, *, counted_from: int) -> tuple[list[SimulatedIteration], float]:
        """The iterations from counted_from on, and for how many seconds their engines were busy, added up."""
        self._clock.start(self._loop(counted_from))
        self._clock.run()
        return self._iterations[counted_from:], self._counted_busy_s

    def _loop(self, counted_from: int) -> Process:
        yield from self._publish(0)
        for iteration in range(self._num_iterations):
            if iteration == counted_from:
                self._counted_busy_s -= self._busy_s()
            began = self._clock.now
            self._admit(iteration)
            yield Until(holds=lambda iteration=iteration: self._buffer.ready(iteration))  # type: ignore[misc]
            waited = self._clock.now
            groups = self._buffer.take(iteration)
            lengths = np.array([group.prompt_length + length for group in groups for length in group.lengths])
            yield Work(seconds=self._load_s(lengths), num_busy=self._workload.num_ranks)
            loaded = self._clock.now
            for seconds in self._steps_s(lengths):
                yield Work(seconds=seconds, num_busy=self._workload.num_ranks)
            updated = self._clock.now
            yield from self._publish(iteration + 1)
            published = self._clock.now
            yield Work(seconds=self._costs.iteration_s + self._costs.completion_s * len(lengths), num_busy=1)
            self._iterations.append(
                SimulatedIteration(
                    total_s=self._clock.now - began,
                    wait_s=waited - began,
                    load_s=loaded - waited,
                    update_s=updated - loaded,
                    publish_s=published - updated,
                    generate_s=max(group.finished_at for group in groups) - min(group.submitted_at for group in groups),
                    max_staleness=max(iteration - group.min_policy_version for group in groups),
                )
            )
        self._counted_busy_s += self._busy_s()

    def _admit(self, version: int) -> None:
        """Each group to the engine with the fewest unfinished completions, as the fleet does."""
        workload = self._workload
        allowed = self._admission.allowed(version)  # beyond the last iteration too: a steady run, not its end
        for index in range(self._admitted, allowed):
            drawn = self._random.choice(workload.lengths, size=workload.completions_per_prompt)
            group = SimulatedGroup(
                admission_index=index, prompt_length=workload.prompt_length, lengths=tuple(drawn.tolist())
            )
            min(self._engines, key=lambda engine: engine.num_unfinished).submit(group)
        self._admitted = max(self._admitted, allowed)

    def _grade(self, group: SimulatedGroup) -> None:
        self._ungraded.append(group)
        if self._free_graders:
            self._free_graders -= 1
            self._clock.start(self._grader())

    def _grader(self) -> Process:
        while self._ungraded:
            group = self._ungraded.popleft()
            seconds = self._costs.grade_s * len(group.lengths)
            if seconds > 0.0:
                yield Work(seconds=seconds, num_busy=1)
            self._buffer.add(group)
        self._free_graders += 1

    def _load_s(self, lengths: np.ndarray) -> float:
        workload, learner = self._workload, self._costs.learner
        passes = int(workload.recomputes_logprobs) + int(workload.keeps_reference)
        scoring_s = learner.pass_s(lengths, num_ranks=workload.num_ranks, max_tokens=workload.max_tokens)
        return learner.load_s + learner.sample_s * len(lengths) + passes * learner.scoring_share * scoring_s

    def _steps_s(self, lengths: np.ndarray) -> list[float]:
        """Of each optimizer step."""
        workload, learner = self._workload, self._costs.learner
        steps = []
        for _ in range(workload.num_epochs):
            for part in np.array_split(self._random.permutation(lengths), workload.num_minibatches):
                computing_s = learner.pass_s(part, num_ranks=workload.num_ranks, max_tokens=workload.max_tokens)
                num_rows = -(-int(part.sum()) // (workload.num_ranks * workload.max_tokens))
                moved = collective_bytes(
                    trained=workload.trained_parameters,
                    gathered=workload.gathered_parameters,
                    zero_stage=workload.zero_stage,
                    num_ranks=workload.num_ranks,
                    num_rows=num_rows,
                    weight_bytes=workload.learner_weight_bytes,
                )
                steps.append(learner.step_s + computing_s + self._costs.wire.seconds(moved, workload.num_ranks))
        return steps

    def _publish(self, version: int) -> Process:
        workload = self._workload
        if not workload.publishes_inflight:
            yield Until(holds=lambda: not any(engine.num_unfinished for engine in self._engines))
        for engine in self._engines:
            engine.freeze()
        seconds = self._costs.publish.seconds(
            workload.published_parameters * workload.wire_weight_bytes,
            workload.num_engines * workload.workers_per_engine,
            self._costs.wire,
            num_devices=workload.num_devices,
        )
        # Measured between one rank and one engine, at the rate of two parts; more engines load at the same time.
        yield Work(seconds=seconds * self._costs.rate(2), num_busy=1 + workload.num_engines)
        for engine in self._engines:
            engine.resume(version)

    def _busy_s(self) -> float:
        return sum(engine.busy_so_far_s() for engine in self._engines)
