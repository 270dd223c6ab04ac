"""The engines that the fleets of a run share: prompts go out in batches, finished groups come back in chunks.

In: prompts, each with the mailbox of the fleet that wants it. Out: finished groups in that mailbox. One call is always
open at an engine that has work (RolloutEngine.collect). It answers with what has finished and with the engine's load; a
thread then opens the next one, hands over whatever there is room for (feeding.py) and sends what has finished
to be graded, so that engines stay full and graders start while the driver waits for something else. A failure is kept
for the fleets to raise.
"""

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ray.exceptions import RayError

from rollout.contract import EngineRoom, GroupChunk, GroupRequest, GroupSummary, Prompt, SamplingSpec
from rollout.fleets.expected_lengths import ExpectedLengths
from rollout.fleets.feeding import Feeder, WaitingGroup
from transfer.heartbeats import Heartbeats

CHUNK_GROUPS = 8  # most groups of one answer: each is a Ray object of its own
GATHER_S = 0.001  # time that a prompt waits for those submitted right after it


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedGroup:
    """A group whose completions are all there. The group itself stays in Ray's object store.

    Example: summary.position=40, summary.num_tokens=1630, while two references point to the group and its verdicts.
    """

    group_ref: Any  # ObjectRef of a PromptGroup
    verdicts_ref: Any  # future that the fleet's `grade` gave for it; None for a fleet without
    summary: GroupSummary
    finished_at: float  # time.perf_counter(), when the driver's process received the notice


@dataclass(kw_only=True, slots=True)
class Mailbox:
    """Finished groups of one fleet; guarded by the pool's lock."""

    grade: Callable[[Any], Any] | None = None  # function of each group's reference, called in the pool's thread
    groups: deque[FinishedGroup] = field(default_factory=deque)
    num_in_flight: int = 0  # groups submitted and not yet in `groups`
    error: Exception | None = None  # error that `grade` raised


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """The answer to a collect call, whose future is done."""

    engine: int
    handle: Any  # handle of the actor that answers; another one may have its number meanwhile
    chunk: Any  # Future of a GroupChunk
    group_refs: list[Any]


class EnginePool:
    """`engines` are RolloutEngine actor handles by number. All methods may be called from any thread."""

    def __init__(self, engines: Mapping[int, Any], *, heartbeats: Heartbeats[int] | None = None) -> None:
        """heartbeats: watch over the engines whose rooms are known; None: nobody asks whether they are well."""
        self.engines = dict(engines)  # handles by engine; all that follows names an engine by this number
        self.arrived = threading.Condition()  # notified when mailboxes or failures change; its lock guards everything
        self.failures: dict[int, RayError] = {}  # errors by engine
        self._feeder = Feeder(self.engines)
        self._lengths = ExpectedLengths()
        self._submitted: dict[int, tuple[GroupRequest, Mailbox]] = {}  # requests under way by ticket
        self._num_tickets = 0
        self._collecting: set[int] = set()  # engines with an open collect call
        self._informed: set[int] = set()  # engines that know of prompts held back here
        self._added: set[int] = set()  # engines that get nothing before open_added()
        self.heartbeats = heartbeats or Heartbeats(every_s=math.inf, timeout_s=math.inf)  # for the driver's thread only
        self.tend: Callable[[], object] | None = None  # called by whoever waits for groups, again and again
        self.num_removed = 0  # engines taken out so far, whose prompts have begun again
        self._events: queue.SimpleQueue[_Answer | Literal["submitted", "stop"]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.is_serving = True  # False: the thread has ended, and nothing will arrive any more

    def set_rooms(self, rooms: Mapping[int, EngineRoom]) -> None:
        """Sets the capacity of each engine; before, every prompt is handed over at once."""
        with self.arrived:
            self._feeder.set_rooms(rooms)

    def add(self, engine: int, handle: Any) -> None:
        """Adds an engine under a number that is free; it gets prompts from open_added() on."""
        with self.arrived:
            self._feeder.add(engine)
            self.engines[engine] = handle
            self._added.add(engine)

    def open_added(self) -> None:
        """Lets added engines take prompts: they have the weights, or will have before they sample."""
        with self.arrived:
            for engine in self._added:
                self._feeder.open(engine)
            if self._added:
                self._added.clear()
                self.hand_over()

    @property
    def is_open(self) -> bool:
        """Whether any engine takes prompts."""
        with self.arrived:
            return bool(self.engines.keys() - self._added)

    @property
    def has_newcomers(self) -> bool:
        """Whether an engine takes no prompts before open_added()."""
        with self.arrived:
            return bool(self._added)

    def remove(self, engine: int) -> Any:
        """Takes an engine out, dead or alive; its unfinished requests go to the others. Its handle, to be ended."""
        with self.arrived:
            handle = self.engines.pop(engine)
            self.failures.pop(engine, None)
            for engines in (self._collecting, self._informed, self._added):
                engines.discard(engine)
            self._feeder.remove(engine)
            self._feeder.keep(self._submitted)
            self.num_removed += 1
            self.hand_over()
            return handle

    def forget_submitted(self) -> None:
        """Drops all prompts: those that wait go to no engine, and those that engines have count for nothing."""
        with self.arrived:
            self._submitted.clear()
            self._feeder.keep(self._submitted)

    def submit(self, prompt: Prompt, sampling: SamplingSpec, mailbox: Mailbox, *, due: int) -> None:
        """Takes a prompt in; it goes to an engine a moment later, or when one has room."""
        with self.arrived:
            ticket, self._num_tickets = self._num_tickets, self._num_tickets + 1
            request = GroupRequest(ticket=ticket, prompt=prompt, sampling=sampling)
            self._submitted[ticket] = request, mailbox
            mailbox.num_in_flight += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="engine-pool", daemon=True)
                self._thread.start()
            if self._feeder.num_waiting == 0:
                self._events.put("submitted")
            self._feeder.hold(
                WaitingGroup(
                    ticket=ticket,
                    due=due,
                    num_sequences=sampling.num_completions,
                    num_prompt_tokens=len(prompt.token_ids),
                    expected_tokens=self._lengths.expected(prompt, max_new_tokens=sampling.max_new_tokens),
                )
            )

    def at_work(self) -> list[int]:
        """Engines that have prompts."""
        with self.arrived:
            return [engine for engine in self.engines if self._feeder.num_unfinished(engine)]

    def stop(self) -> None:
        """Ends the thread; what is in flight is lost."""
        self._events.put("stop")

    def _serve(self) -> None:
        """Waits for the engines' answers and for new prompts, until stop()."""
        try:
            while (event := self._events.get()) != "stop":
                if isinstance(event, _Answer):
                    self._answered(event)
                else:
                    time.sleep(GATHER_S)
                    self.hand_over()
        finally:  # after an error of our own too: waiting callers must wake up
            with self.arrived:
                self.is_serving = False
                self.arrived.notify_all()

    def _answered(self, answer: _Answer) -> None:
        finished_at = time.perf_counter()
        with self.arrived:
            if self.engines.get(answer.engine) is not answer.handle:
                return  # it was removed, and what it had is with others
            self._collecting.discard(answer.engine)
            arrivals = self._take_in(answer, finished_at)
            self.hand_over(answer.engine)
        # The engine has work again by now, and the driver may submit meanwhile.
        deliveries = [(mailbox, _graded(finished, mailbox.grade)) for mailbox, finished in arrivals]
        with self.arrived:
            for mailbox, delivery in deliveries:
                if isinstance(delivery, FinishedGroup):
                    mailbox.groups.append(delivery)
                    mailbox.num_in_flight -= 1
                else:
                    mailbox.error = delivery
            self.arrived.notify_all()

    def _take_in(self, answer: _Answer, finished_at: float) -> list[tuple[Mailbox, FinishedGroup]]:
        """Notes what the engine has done; the groups that it has finished, not yet graded."""
        error = answer.chunk.exception()
        if error is not None:
            assert isinstance(error, RayError), error
            self.failures[answer.engine] = error
            self._feeder.close(answer.engine)
            return []
        chunk: GroupChunk = answer.chunk.result()
        arrivals = []
        for finished, group_ref in zip(chunk.finished, answer.group_refs[: len(chunk.finished)], strict=True):
            if finished.ticket not in self._submitted:
                continue  # it was forgotten
            (request, mailbox), summary = self._submitted.pop(finished.ticket), finished.summary
            num_completions = request.sampling.num_completions
            self._lengths.observe(request.prompt, num_tokens=summary.num_tokens, num_completions=num_completions)
            group = FinishedGroup(group_ref=group_ref, verdicts_ref=None, summary=summary, finished_at=finished_at)
            arrivals.append((mailbox, group))
        tickets = tuple(finished.ticket for finished in chunk.finished)
        self._feeder.report(answer.engine, finished=tickets, load=chunk.load, num_entered=chunk.num_entered)
        return arrivals

    def hand_over(self, answered: int | None = None) -> None:
        """Gives the engines what they have room for, at once.

        answered: the engine whose call has just ended, and which may still have work.
        """
        with self.arrived:
            handed: dict[int, list[GroupRequest]] = {}
            for engine, ticket in self._feeder.assign():
                handed.setdefault(engine, []).append(self._submitted[ticket][0])
            holds_back = self._feeder.num_waiting > 0
            for engine, requests in handed.items():
                self._start(engine, requests, holds_back=holds_back)
            for engine in handed if answered is None else handed.keys() | {answered}:
                is_needed = self._feeder.num_unfinished(engine) and engine not in self.failures
                if is_needed and engine not in self._collecting:
                    self._collect(engine, holds_back=holds_back)
            if holds_back:
                for engine in self._collecting - self._informed:
                    self._start(engine, [], holds_back=True)

    def _start(self, engine: int, requests: list[GroupRequest], *, holds_back: bool) -> None:
        self.engines[engine].start.remote(requests, holds_back=holds_back)
        self._note_informed(engine, holds_back=holds_back)

    def _collect(self, engine: int, *, holds_back: bool) -> None:
        limit = min(CHUNK_GROUPS, self._feeder.num_unfinished(engine))
        handle = self.engines[engine]
        call = handle.collect.options(num_returns=1 + limit)
        chunk_ref, *group_refs = call.remote(limit, holds_back=holds_back)
        self._collecting.add(engine)
        self._note_informed(engine, holds_back=holds_back)
        chunk_ref.future().add_done_callback(
            lambda chunk: self._events.put(_Answer(engine=engine, handle=handle, chunk=chunk, group_refs=group_refs))
        )

    def _note_informed(self, engine: int, *, holds_back: bool) -> None:
        (self._informed.add if holds_back else self._informed.discard)(engine)


def _graded(finished: FinishedGroup, grade: Callable[[Any], Any] | None) -> FinishedGroup | Exception:
    """The group on its way to the graders, or the error of handing it to them."""
    try:
        return finished if grade is None else replace(finished, verdicts_ref=grade(finished.group_ref))
    except Exception as error:  # noqa: BLE001  whatever it is, the driver raises it; the thread serves other fleets too
        return error
