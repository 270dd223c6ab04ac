"""An engine as a batch server: every step adds a token to each sequence in it, and takes longer the more there are.

In: groups with the lengths their completions will have. Out: groups, when their last completion is done. Time jumps
from one change of the batch to the next, so a thousand steps with the same sequences are one event.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestration.plan.costs import EngineCosts, prompt_tokens
from orchestration.plan.fake_clock import FakeClock


@dataclass(kw_only=True, slots=True)
class SimulatedGroup:
    """A prompt and the lengths of its completions; what GroupBuffer holds in a simulation."""

    admission_index: int
    prompt_length: int
    lengths: tuple[int, ...]  # G, tokens of each completion
    num_unfinished: int = field(init=False)
    min_policy_version: int = field(default=-1, init=False)  # lowest that produced a token; -1: none yet
    submitted_at: float = field(default=0.0, init=False)
    finished_at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.num_unfinished = len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """Of prompt and completion, over the group."""
        return len(self.lengths) * self.prompt_length + sum(self.lengths)


@dataclass(kw_only=True, slots=True)
class SimulatedEngine:
    """One engine under a FakeClock."""

    costs: EngineCosts
    clock: FakeClock
    max_sequences: int
    kv_tokens: int  # room of the key/value cache
    on_finished: Callable[[SimulatedGroup], None]
    version: int = -1
    num_unfinished: int = 0  # completions, waiting ones included
    _waiting: deque[tuple[SimulatedGroup, int]] = field(default_factory=deque)
    _running: list[tuple[int, int, SimulatedGroup, int]] = field(default_factory=list)  # last step, order, group, room
    _num_started: int = 0
    _reserved: int = 0  # tokens of the cache that running sequences will fill
    _context: int = 0  # tokens that the next step looks back at
    _step: int = 0  # steps done
    _segment_began: float = 0.0  # in work done
    _overhead_s: float = 0.0  # of work that comes before the segment's first step
    _event: int | None = None  # the end of the segment
    _is_planned: bool = False
    _is_frozen: bool = False
    _is_busy: bool = False
    _busy_since: float = 0.0
    _busy_before_s: float = 0.0  # until then

    def submit(self, group: SimulatedGroup) -> None:
        """Takes a group; it joins the batch at the next change."""
        if not self._running and not self._waiting:
            self._overhead_s += self.costs.burst_s
        self._overhead_s += self.costs.group_s
        group.submitted_at = self.clock.now
        self.num_unfinished += len(group.lengths)
        self._waiting.extend((group, length) for length in group.lengths)
        self._plan_soon()

    def freeze(self) -> None:
        """A publish begins: steps done so far count, none follows."""
        self._settle()
        self._is_frozen = True
        self._set_busy(False)

    def resume(self, version: int) -> None:
        """The publish is over; sequences go on, and new ones start, under this version."""
        self.version = version
        self._is_frozen = False
        self._plan_soon()

    def busy_so_far_s(self) -> float:
        """Seconds with a sequence in the batch, publishes aside."""
        return self._busy_before_s + (self.clock.now - self._busy_since if self._is_busy else 0.0)

    def _plan_soon(self) -> None:
        """Plans once for all that is submitted at this moment."""
        if not self._is_planned and not self._is_frozen:
            self._is_planned = True
            self.clock.after(0.0, self._plan)

    def _plan(self) -> None:
        self._is_planned = False
        if self._is_frozen:
            return
        self._settle()
        self._admit()
        self._set_busy(bool(self._running))
        if self._running:
            num_steps = self._running[0][0] - self._step
            decoding_s = self.costs.decoding_s(num_steps, len(self._running), self._context)
            self._segment_began = self.clock.work_done
            self._event = self.clock.after(max(0.0, self._overhead_s + decoding_s), self._finish_segment)

    def _finish_segment(self) -> None:
        self._event = None
        self._pass_steps(self._running[0][0] - self._step)
        self._overhead_s = 0.0
        while self._running and self._running[0][0] == self._step:
            _, _, group, room = heapq.heappop(self._running)
            self._reserved -= room
            self._context -= room
            self.num_unfinished -= 1
            group.num_unfinished -= 1
            if group.num_unfinished == 0:
                group.finished_at = self.clock.now
                self.on_finished(group)
        self._plan()

    def _settle(self) -> None:
        """Counts the steps of a segment that ends early; what was begun of the next step is not lost."""
        if self._event is None:
            return
        self.clock.cancel(self._event)
        self._event = None
        decoded_s = self.clock.work_done - self._segment_began - self._overhead_s
        if decoded_s < 0.0:
            self._overhead_s = -decoded_s
            return
        num_steps = self.costs.steps_within(decoded_s, len(self._running), self._context)
        num_steps = min(num_steps, self._running[0][0] - self._step - 1)
        self._overhead_s = self.costs.decoding_s(num_steps, len(self._running), self._context) - decoded_s
        self._pass_steps(num_steps)

    def _pass_steps(self, num_steps: int) -> None:
        self._step += num_steps
        self._context += num_steps * len(self._running)

    def _admit(self) -> None:
        """Waiting sequences join while there are seats and cache; the first always does, or nothing would run."""
        while self._waiting and len(self._running) < self.max_sequences:
            group, length = self._waiting[0]
            room = group.prompt_length + length
            if self._running and self._reserved + room > self.kv_tokens:
                break
            self._waiting.popleft()
            if group.min_policy_version < 0:
                group.min_policy_version = self.version
                read = prompt_tokens(group.prompt_length, len(group.lengths))
                self._overhead_s += self.costs.prompt_token_s * read
            self._num_started += 1
            heapq.heappush(self._running, (self._step + length, self._num_started, group, room))
            self._reserved += room
            self._context += group.prompt_length

    def _set_busy(self, is_busy: bool) -> None:
        if is_busy == self._is_busy:
            return
        self.clock.busy(1 if is_busy else -1)
        self._busy_before_s = self.busy_so_far_s()
        self._busy_since = self.clock.now
        self._is_busy = is_busy
