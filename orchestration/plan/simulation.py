"""A run under a fake clock: the loop of orchestration/loop.py with made-up durations.

In: a Workload and its Costs. Out: what an iteration takes and where the time goes. Which prompt may start when, which
engine it goes to, and which groups make a batch is decided by the code that decides it in a run: Admission, the fleet's
Feeder, and the buffers.
"""

from collections import deque
from dataclasses import dataclass, fields
from functools import partial
from statistics import fmean

import numpy as np

from orchestration.plan.costs import Costs, Workload
from orchestration.plan.simulated_engine import FakeClock, SimulatedEngine, SimulatedGroup
from orchestration.stream.order import Buffer, admission_for, buffer_for
from rollout.contract import EngineRoom
from rollout.fleets.feeding import Feeder, WaitingGroup, wants_more


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTimes:
    """Seconds of one iteration, or means over several."""

    iteration_s: float
    wait_s: float  # the learner waits for its batch
    load_s: float
    update_s: float
    publish_s: float
    generate_s: float  # from the first of the batch's prompts to its last completion


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """A steady run."""

    mean: StageTimes
    engines_busy: float  # share of the time, 0..1

    @property
    def learner_busy(self) -> float:
        """Share of the time, 0..1."""
        return (self.mean.load_s + self.mean.update_s) / self.mean.iteration_s


def predict(workload: Workload, costs: Costs, *, num_iterations: int = 12, seed: int = 0) -> Prediction:
    """Simulates num_iterations after those in which the pipeline fills."""
    warmup = workload.max_staleness + 1
    run = SimulatedRun(workload, costs, seed=seed)
    run.simulate(warmup + num_iterations)
    counted = run.iterations[warmup:]
    mean = {each.name: fmean(getattr(times, each.name) for times in counted) for each in fields(StageTimes)}
    engines_busy_s = run.busy_s[-1] - run.busy_s[warmup]
    return Prediction(
        mean=StageTimes(**mean),
        engines_busy=engines_busy_s / workload.num_engines / (num_iterations * mean["iteration_s"]),
    )


class SimulatedRun:
    """One run; simulate() once."""

    def __init__(self, workload: Workload, costs: Costs, *, seed: int) -> None:
        self.iterations: list[StageTimes] = []
        self.staleness: list[int] = []  # of each iteration, versions
        self.busy_s: list[float] = []  # of all engines, up to each publish
        self._workload = workload
        self._costs = costs
        self._random = np.random.default_rng(seed)
        self._clock = FakeClock(costs.rate)
        order, size = workload.batch_order, workload.prompts_per_iteration
        self._admission = admission_for(order, prompts_per_iteration=size, max_staleness=workload.max_staleness)
        self._buffer: Buffer[SimulatedGroup] = buffer_for(
            order, prompts_per_iteration=size, max_staleness=workload.max_staleness
        )
        self._room = EngineRoom(num_sequences=workload.max_sequences, kv_tokens=workload.kv_tokens)
        self._feeder = Feeder(workload.num_engines)
        self._feeder.set_rooms(dict.fromkeys(range(workload.num_engines), self._room))
        self._engines = [
            SimulatedEngine(
                costs=costs.engine, clock=self._clock, room=self._room, on_change=partial(self._on_change, number)
            )
            for number in range(workload.num_engines)
        ]
        self._groups: dict[int, SimulatedGroup] = {}  # by admission index, until they are finished
        self._admitted = 0
        self._ungraded: deque[SimulatedGroup] = deque()
        self._free_graders = workload.num_graders

    def simulate(self, num_iterations: int) -> None:
        self._publish(0)
        for iteration in range(num_iterations):
            self._iterate(iteration)

    def _iterate(self, iteration: int) -> None:
        clock, costs, workload = self._clock, self._costs, self._workload
        marks = [clock.now]
        self._admit(iteration)
        clock.run_until(lambda: self._buffer.ready(iteration))
        marks.append(clock.now)
        groups = self._buffer.take(iteration)
        lengths = np.array([group.prompt_length + length for group in groups for length in group.lengths])
        clock.work(costs.load_s(workload, lengths), num_busy=workload.num_ranks)
        marks.append(clock.now)
        for _ in range(workload.num_epochs):
            for part in np.array_split(self._random.permutation(lengths), workload.num_minibatches):
                clock.work(costs.step_s(workload, part), num_busy=workload.num_ranks)
        marks.append(clock.now)
        self._publish(iteration + 1)
        marks.append(clock.now)
        clock.work(costs.driver_s(workload), num_busy=1)
        wait_s, load_s, update_s, publish_s = np.diff(marks).tolist()
        self.iterations.append(
            StageTimes(
                iteration_s=clock.now - marks[0],
                wait_s=wait_s,
                load_s=load_s,
                update_s=update_s,
                publish_s=publish_s,
                generate_s=max(group.finished_at for group in groups) - min(group.submitted_at for group in groups),
            )
        )
        self.staleness.append(max(iteration - group.min_policy_version for group in groups))

    def _admit(self, version: int) -> None:
        """Beyond the last iteration too: a steady run, not its end."""
        workload, expected_tokens = self._workload, fmean(self._workload.lengths)
        for index in range(self._admitted, allowed := self._admission.allowed(version)):
            drawn = self._random.choice(workload.lengths, size=workload.completions_per_prompt)
            self._groups[index] = SimulatedGroup(
                admission_index=index,
                prompt_length=workload.prompt_length,
                lengths=tuple(drawn.tolist()),
                submitted_at=self._clock.now,
            )
            self._feeder.hold(
                WaitingGroup(
                    ticket=index,
                    due=index // workload.prompts_per_iteration,
                    num_sequences=workload.completions_per_prompt,
                    num_prompt_tokens=workload.prompt_length,
                    expected_tokens=expected_tokens,
                )
            )
        self._admitted = max(self._admitted, allowed)
        self._hand_over()

    def _hand_over(self) -> None:
        for engine, ticket in self._feeder.assign():
            self._engines[engine].submit(self._groups[ticket])

    def _on_change(self, number: int, finished: list[SimulatedGroup]) -> None:
        """An engine tells of finished groups, and of room where groups are held back."""
        engine = self._engines[number]
        for group in finished:
            del self._groups[group.admission_index]
            self._ungraded.append(group)
        self._start_grading()
        if finished or (self._feeder.num_waiting and wants_more(engine.load, self._room)):
            tickets = tuple(group.admission_index for group in finished)
            self._feeder.report(number, finished=tickets, load=engine.load, num_entered=engine.num_entered)
            self._hand_over()

    def _start_grading(self) -> None:
        while self._ungraded and self._free_graders:
            group = self._ungraded.popleft()
            self._free_graders -= 1
            self._clock.busy(1)
            self._clock.after(self._costs.grade_s * len(group.lengths), partial(self._graded, group))

    def _graded(self, group: SimulatedGroup) -> None:
        self._clock.busy(-1)
        self._free_graders += 1
        self._buffer.add(group)
        self._start_grading()

    def _publish(self, version: int) -> None:
        if not self._workload.publishes_inflight:
            self._clock.run_until(lambda: not self._groups)
        for engine in self._engines:
            engine.freeze()
        self.busy_s.append(sum(engine.busy_s for engine in self._engines))
        seconds = self._costs.publish_s(self._workload)
        # Measured between one rank and one engine, at the rate of two parts; more engines load at the same time.
        self._clock.work(seconds * self._costs.rate(2), num_busy=1 + self._workload.num_engines)
        for engine in self._engines:
            engine.resume(version)
