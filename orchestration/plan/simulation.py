"""A simulated run under a fake clock: the loop of orchestration/loop.py with durations from Costs.

In: a Workload and its Costs. Out: seconds of an iteration and of its stages. Which prompt may start when, which engine
it goes to, and which groups make a batch is decided by the run's own code: Admission, the fleet's Feeder, the buffers.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import count
from statistics import fmean

import numpy as np

from orchestration.plan.costs import Costs, EngineCosts, Workload, prompt_tokens
from orchestration.stream.order import Buffer, admission_for, buffer_for
from rollout.contract import EngineLoad, EngineRoom
from rollout.fleets.feeding import Feeder, WaitingGroup, wants_more


class FakeClock:
    """Runs actions when their work is done. While n parts compute at once, each runs at rate(n)."""

    def __init__(self, rate: Callable[[int], float]) -> None:
        self.now = 0.0  # seconds
        self.work_done = 0.0  # seconds of work that a part which has always been busy would have done by now
        self._rate = rate
        self._num_busy = 0
        self._numbers = count()  # order of actions that are due at once
        self._due: list[tuple[float, int, Callable[[], None]]] = []  # heap

    def busy(self, change: int) -> None:
        """Changes the number of parts that compute from now on."""
        self._num_busy += change

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Runs the action once so much work is done."""
        heapq.heappush(self._due, (self.work_done + seconds, next(self._numbers), action))

    def run_until(self, holds: Callable[[], bool]) -> None:
        """Runs what is due until the condition holds."""
        while not holds():
            due, _, action = heapq.heappop(self._due)
            self.now += (due - self.work_done) / self._rate(self._num_busy)
            self.work_done = due
            action()

    def work(self, seconds: float, *, num_busy: int) -> None:
        """Lets so many parts compute for so many seconds of work, and runs what is due meanwhile."""
        self.busy(num_busy)
        over: list[bool] = []
        self.after(seconds, lambda: over.append(True))
        self.run_until(lambda: bool(over))
        self.busy(-num_busy)


@dataclass(kw_only=True, slots=True)
class SimulatedGroup:
    """A prompt and the lengths of its completions; the run's buffer holds it in place of a graded group."""

    admission_index: int  # number of groups admitted before it
    prompt_length: int
    lengths: tuple[int, ...]  # [G] tokens of each completion
    submitted_at: float = 0.0
    finished_at: float = 0.0
    num_finished: int = 0  # completions
    min_policy_version: int = -1  # lowest version that produced a token; -1: none yet


@dataclass(kw_only=True, slots=True)
class SimulatedEngine:
    """One engine. Its number of steps is continuous: a batch may change within a step, and no work is lost."""

    costs: EngineCosts
    clock: FakeClock
    room: EngineRoom
    on_change: Callable[[list[SimulatedGroup]], None]  # called with finished groups whenever a completion ends
    version: int = -1
    num_entered: int = 0  # groups so far
    _waiting: deque[tuple[SimulatedGroup, int]] = field(default_factory=deque)  # group, completion length
    _running: list[tuple[float, int, SimulatedGroup, int]] = field(default_factory=list)  # heap: last step, number, ..
    _num_started: int = 0
    _context: float = 0.0  # tokens that the next step looks back at
    _step: float = 0.0  # steps done
    _segment: int = 0  # number of the current segment, in which the batch does not change
    _began: float = 0.0  # beginning of the segment, in work done
    _overhead_s: float = 0.0  # work before the segment's first step
    _is_frozen: bool = False
    _is_busy: bool = False

    @property
    def load(self) -> EngineLoad:
        usage = min(1.0, self._context / self.room.kv_tokens)
        return EngineLoad(num_running=len(self._running), num_waiting=len(self._waiting), kv_usage=usage)

    def submit(self, group: SimulatedGroup) -> None:
        """Takes a group, whose sequences join the batch as soon as there are places."""
        if not self._running and not self._waiting:
            self._overhead_s += self.costs.burst_s
        self._overhead_s += self.costs.group_s
        self.num_entered += 1
        self._waiting.extend((group, length) for length in group.lengths)
        self._plan()

    def freeze(self) -> None:
        """Stops decoding until resume()."""
        self._is_frozen = True
        self._plan()

    def resume(self, version: int) -> None:
        """Goes on under this version."""
        self.version, self._is_frozen = version, False
        self._plan()

    def _plan(self) -> None:
        """Ends the segment, counts what was decoded of it, and begins the next one."""
        if self._is_busy and self._running:
            decoded_s = self.clock.work_done - self._began - self._overhead_s
            self._overhead_s = max(0.0, -decoded_s)
            if decoded_s > 0.0:
                steps = self.costs.steps_within(decoded_s, len(self._running), self._context)
                self._decode_to(min(self._running[0][0], self._step + steps))
        self._admit()
        was_busy, self._is_busy = self._is_busy, bool(self._running) and not self._is_frozen
        self.clock.busy(self._is_busy - was_busy)
        self._segment, self._began = self._segment + 1, self.clock.work_done
        if self._is_busy:
            decoding_s = self.costs.decoding_s(self._running[0][0] - self._step, len(self._running), self._context)
            self.clock.after(max(0.0, self._overhead_s + decoding_s), partial(self._finish, self._segment))

    def _finish(self, segment: int) -> None:
        """Ends the sequences with the fewest steps left; nothing if the segment ended early."""
        if segment != self._segment:
            return
        self._decode_to(self._running[0][0])
        self._overhead_s, self._began = 0.0, self.clock.work_done
        finished = []
        while self._running and self._running[0][0] <= self._step:
            _, _, group, length = heapq.heappop(self._running)
            self._context -= group.prompt_length + length
            group.num_finished += 1
            if group.num_finished == len(group.lengths):
                group.finished_at = self.clock.now
                finished.append(group)
        self._admit()
        self.on_change(finished)
        self._plan()

    def _decode_to(self, step: float) -> None:
        self._context += (step - self._step) * len(self._running)
        self._step = step

    def _admit(self) -> None:
        """Lets waiting sequences join while there are places; the fleet sees to the cache."""
        while self._waiting and len(self._running) < self.room.num_sequences and not self._is_frozen:
            group, length = self._waiting.popleft()
            if group.min_policy_version < 0:
                group.min_policy_version = self.version
                read = prompt_tokens(group.prompt_length, len(group.lengths))
                self._overhead_s += self.costs.prompt_token_s * read
            self._num_started += 1
            heapq.heappush(self._running, (self._step + length, self._num_started, group, length))
            self._context += group.prompt_length


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTimes:
    """Seconds of one iteration, or means over several."""

    iteration_s: float
    wait_s: float  # learner waits for its batch
    load_s: float
    update_s: float
    publish_s: float
    generate_s: float  # time from the batch's first prompt to its last completion


def predict(workload: Workload, costs: Costs, *, num_iterations: int = 12, seed: int = 0) -> StageTimes:
    """Means over num_iterations simulated iterations, after those in which the pipeline fills."""
    run = SimulatedRun(workload, costs, seed=seed)
    warmup = workload.max_staleness + 1
    run.simulate(warmup + num_iterations)
    counted = run.iterations[warmup:]
    names = [each.name for each in fields(StageTimes)]
    return StageTimes(**{name: fmean(getattr(times, name) for times in counted) for name in names})


class SimulatedRun:
    """One run; simulate() may be called once."""

    def __init__(self, workload: Workload, costs: Costs, *, seed: int) -> None:
        self.iterations: list[StageTimes] = []
        self.staleness: list[int] = []  # versions, of each iteration
        self._workload = workload
        self._costs = costs
        self._random = np.random.default_rng(seed)
        self._clock = FakeClock(costs.rate)
        order, size, bound = workload.batch_order, workload.prompts_per_iteration, workload.max_staleness
        self._admission = admission_for(order, prompts_per_iteration=size, max_staleness=bound)
        self._buffer: Buffer[SimulatedGroup] = buffer_for(order, prompts_per_iteration=size, max_staleness=bound)
        self._room = EngineRoom(num_sequences=workload.max_sequences, kv_tokens=workload.kv_tokens)
        self._feeder = Feeder(range(workload.num_engines))
        self._feeder.set_rooms(dict.fromkeys(range(workload.num_engines), self._room))
        make_engine = partial(SimulatedEngine, costs=costs.engine, clock=self._clock, room=self._room)
        self._engines = [make_engine(on_change=partial(self._on_change, n)) for n in range(workload.num_engines)]
        self._groups: dict[int, SimulatedGroup] = {}  # unfinished groups by admission index
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
        stages = dict(zip(("wait_s", "load_s", "update_s", "publish_s"), np.diff(marks).tolist(), strict=True))
        generate_s = max(group.finished_at for group in groups) - min(group.submitted_at for group in groups)
        self.iterations.append(StageTimes(iteration_s=clock.now - marks[0], generate_s=generate_s, **stages))
        self.staleness.append(max(iteration - group.min_policy_version for group in groups))

    def _admit(self, version: int) -> None:
        """Admits all prompts that the rule allows, also beyond the last iteration: the run is steady to its end."""
        workload, expected_tokens = self._workload, fmean(self._workload.lengths)
        for index in range(self._admitted, allowed := self._admission.allowed(version)):
            drawn = self._random.choice(workload.lengths, size=workload.completions_per_prompt)
            self._groups[index] = SimulatedGroup(
                admission_index=index,
                prompt_length=workload.prompt_length,
                lengths=tuple(drawn.tolist()),
                submitted_at=self._clock.now,
            )
            waiting = WaitingGroup(
                ticket=index,
                due=index // workload.prompts_per_iteration,
                num_sequences=workload.completions_per_prompt,
                num_prompt_tokens=workload.prompt_length,
                expected_tokens=expected_tokens,
            )
            self._feeder.hold(waiting)
        self._admitted = max(self._admitted, allowed)
        self._hand_over()

    def _hand_over(self) -> None:
        for engine, ticket in self._feeder.assign():
            self._engines[engine].submit(self._groups[ticket])

    def _on_change(self, number: int, finished: list[SimulatedGroup]) -> None:
        """Takes an engine's finished groups, and reports its load to the feeder."""
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
        seconds = self._costs.publish_s(self._workload)
        # Measured between one rank and one engine, at the rate of two parts; more engines load at the same time.
        self._clock.work(seconds * self._costs.rate(2), num_busy=1 + self._workload.num_engines)
        for engine in self._engines:
            engine.resume(version)
