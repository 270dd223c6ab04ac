"""An engine as a batch server under a clock that is told what time it is.

In: groups with the lengths their completions will have. Out: groups, when their last completion is done. Every step
adds a token to each sequence in the batch and takes longer the more there are; time jumps from one change of the batch
to the next. While n parts compute at once, each runs at rate(n): all slow down alike, so one queue ordered by work done
serves all.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from orchestration.plan.costs import EngineCosts, prompt_tokens
from rollout.contract import EngineLoad, EngineRoom

Action = Callable[[], None]


class FakeClock:
    """Runs actions when their work is done."""

    def __init__(self, rate: Callable[[int], float]) -> None:
        self.now = 0.0  # seconds
        self.work_done = 0.0  # seconds of work that a part which has always been busy would have done by now
        self._rate = rate
        self._num_busy = 0
        self._numbers = count()  # of actions; those that are due at once run in this order
        self._due: list[tuple[float, int, Action]] = []  # heap

    def busy(self, change: int) -> None:
        """So many more parts compute from now on; negative: fewer."""
        self._num_busy += change
        assert self._num_busy >= 0, f"{self._num_busy} parts compute"

    def after(self, seconds: float, action: Action) -> None:
        """Runs the action once so much work is done."""
        heapq.heappush(self._due, (self.work_done + seconds, next(self._numbers), action))

    def run_until(self, holds: Callable[[], bool]) -> None:
        """Runs what is due until the condition holds. RuntimeError where nothing is left that could make it hold."""
        while not holds():
            if not self._due:
                raise RuntimeError("the simulated run waits for what never happens")
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
    """A prompt and the lengths of its completions; what the run's buffer holds in place of a graded group."""

    admission_index: int  # number of groups admitted before it
    prompt_length: int
    lengths: tuple[int, ...]  # [G] tokens of each completion
    submitted_at: float = 0.0
    finished_at: float = 0.0
    num_finished: int = 0  # completions
    min_policy_version: int = -1  # lowest that produced a token; -1: none yet


@dataclass(kw_only=True, slots=True)
class SimulatedEngine:
    """One engine. Its step count is continuous: a batch may change in the middle of a step, and no work is lost."""

    costs: EngineCosts
    clock: FakeClock
    room: EngineRoom
    on_change: Callable[[list[SimulatedGroup]], None]  # called with finished groups whenever a completion ends
    version: int = -1
    busy_s: float = 0.0  # seconds with a sequence in the batch, up to the last change
    num_entered: int = 0  # groups so far
    _waiting: deque[tuple[SimulatedGroup, int]] = field(default_factory=deque)  # group, completion length
    _running: list[tuple[float, int, SimulatedGroup, int]] = field(default_factory=list)  # heap: last step, number, ..
    _num_started: int = 0
    _context: float = 0.0  # tokens that the next step looks back at
    _step: float = 0.0  # steps done
    _segment: int = 0  # number of the time in which the batch does not change
    _began: float = 0.0  # when the segment began, in work done
    _overhead_s: float = 0.0  # work that comes before the segment's first step
    _is_frozen: bool = False
    _is_busy: bool = False
    _since: float = 0.0  # when _is_busy changed

    @property
    def load(self) -> EngineLoad:
        usage = min(1.0, self._context / self.room.kv_tokens)
        return EngineLoad(num_running=len(self._running), num_waiting=len(self._waiting), kv_usage=usage)

    def submit(self, group: SimulatedGroup) -> None:
        """Takes a group; its sequences join the batch as soon as there are seats."""
        if not self._running and not self._waiting:
            self._overhead_s += self.costs.burst_s
        self._overhead_s += self.costs.group_s
        self.num_entered += 1
        self._waiting.extend((group, length) for length in group.lengths)
        self._plan()

    def freeze(self) -> None:
        """A publish begins: nothing is decoded until resume()."""
        self._is_frozen = True
        self._plan()

    def resume(self, version: int) -> None:
        """The publish is over; sequences go on, and new ones start, under this version."""
        self.version, self._is_frozen = version, False
        self._plan()

    def _plan(self) -> None:
        """Ends the segment, counts what was decoded of it, and begins the next one."""
        if self._is_busy and self._running:
            self._settle()
        self._admit()
        is_busy = bool(self._running) and not self._is_frozen
        self._set_busy(is_busy)
        self._segment, self._began = self._segment + 1, self.clock.work_done
        if is_busy:
            decoding_s = self.costs.decoding_s(self._running[0][0] - self._step, len(self._running), self._context)
            self.clock.after(max(0.0, self._overhead_s + decoding_s), partial(self._finish, self._segment))

    def _finish(self, segment: int) -> None:
        """The sequences with the fewest steps left are done."""
        if segment != self._segment:  # it ended early
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

    def _settle(self) -> None:
        elapsed_s = self.clock.work_done - self._began
        decoded_s = elapsed_s - self._overhead_s
        self._overhead_s = max(0.0, -decoded_s)
        if decoded_s > 0.0:
            steps = self.costs.steps_within(decoded_s, len(self._running), self._context)
            self._decode_to(min(self._running[0][0], self._step + steps))

    def _decode_to(self, step: float) -> None:
        self._context += (step - self._step) * len(self._running)
        self._step = step

    def _admit(self) -> None:
        """Waiting sequences join while there are seats; that the cache holds them is the fleet's business."""
        while self._waiting and len(self._running) < self.room.num_sequences and not self._is_frozen:
            group, length = self._waiting.popleft()
            if group.min_policy_version < 0:
                group.min_policy_version = self.version
                read = prompt_tokens(group.prompt_length, len(group.lengths))
                self._overhead_s += self.costs.prompt_token_s * read
            self._num_started += 1
            heapq.heappush(self._running, (self._step + length, self._num_started, group, length))
            self._context += group.prompt_length

    def _set_busy(self, is_busy: bool) -> None:
        if self._is_busy:
            self.busy_s += self.clock.now - self._since
        self.clock.busy(is_busy - self._is_busy)
        self._is_busy, self._since = is_busy, self.clock.now
