"""Grading by Ray actors on CPUs, each with one child that alone touches untrusted text.

In: PromptGroups (as Ray references). Out: futures of GroupVerdicts. A grader that dies or gets stuck is replaced, and
another one grades its groups: grading has no effect but its result. Knows no reward.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayError, RayTaskError

from configs.graders import GradersConfig
from configs.rewards import RewardConfig
from rollout.contract import GroupVerdicts
from rollout.rewards.child import CLOSE_TIMEOUT_S, REWARD_FACTORY, GradingError
from rollout.rewards.watch import Watch
from rollout.rewards.worker import GraderWorker
from transfer.last_hour import LastHour
from transfer.spans import Span

__all__ = ["GraderPool", "GradingError", "await_verdicts"]

TICK_S = 0.5  # time between two looks at the graders
WATCHING = "watching"  # Ray's name of the thread in which an actor answers while it grades

Verdicts = Future[GroupVerdicts]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """A group on its way through a grader."""

    group_ref: Any
    verdicts: Verdicts


@dataclass(kw_only=True, slots=True, eq=False)
class _Grader:
    """One actor; its successor is another object."""

    index: int
    handle: Any
    watch: Watch
    calls: dict[int, _Call] = field(default_factory=dict)  # calls that are not answered, by number
    is_asked: bool = False  # whether it owes the answer to progress()
    spans_ref: Any = None  # reference of spans that it was asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answer:
    """The answer to a call, whose future is done."""

    grader: _Grader
    number: int | None  # number of the call; None: of progress()
    result: Any  # Future of GroupVerdicts, or of progress


class GraderPool:
    """Spreads groups over grader actors, always to the one with the fewest unfinished groups.

    num_cpus is each actor's share of the cluster's CPUs; 0 lets graders run beside whatever holds the cores. All
    methods may be called from any thread.
    """

    def __init__(
        self,
        config: GradersConfig,
        *,
        reward: RewardConfig,
        num_cpus: float = 0.0,
        reward_factory: str = REWARD_FACTORY,
        on_fault: Callable[[str, RayError | None], object] = lambda line, cause: None,
    ) -> None:
        """on_fault: takes a line for each grader that is replaced, and Ray's error, if there is one; on any thread."""
        self._config = config
        self._actor = ray.remote(num_cpus=num_cpus, concurrency_groups={WATCHING: 1})(GraderWorker)
        self._settings = {"reward": reward, "reward_factory": reward_factory}
        self._numbers = count()
        self._replaced = LastHour()
        self._on_fault = on_fault
        self._error: GradingError | None = None  # reason why nothing is graded any more
        self._lock = threading.RLock()  # guards everything
        self._events: queue.SimpleQueue[_Answer | None] = queue.SimpleQueue()
        self._graders = [self._start(index) for index in range(config.num_workers)]
        self._thread = threading.Thread(target=self._serve, name="grader-pool", daemon=True)
        self._thread.start()

    @property
    def workers(self) -> list[Any]:
        """The actors' handles."""
        with self._lock:
            return [grader.handle for grader in self._graders]

    def grade(self, group_ref: Any) -> Verdicts:
        """Starts grading a PromptGroup (or a reference to one); gives the future of its GroupVerdicts at once."""
        with self._lock:
            if self._error is not None:
                raise self._error
            call = _Call(group_ref=group_ref, verdicts=Future())
            self._send(call)
        return call.verdicts

    def drain_spans(self) -> tuple[Span, ...]:
        """What graders did, as far as they have answered earlier calls; asks for the rest. Waits for nothing."""
        spans: tuple[Span, ...] = ()
        with self._lock:
            for grader in list(self._graders):
                if grader.spans_ref is not None:
                    if not ray.wait([grader.spans_ref], timeout=0)[0]:
                        continue
                    try:
                        spans += ray.get(grader.spans_ref)
                    except RayError as error:
                        self._replace(grader, "died", cause=error)
                        continue
                grader.spans_ref = grader.handle.drain_spans.remote()
        return spans

    def close(self) -> None:
        """Ends all actors and their children; unfinished groups are lost. Safe to call twice."""
        self._events.put(None)
        self._thread.join(CLOSE_TIMEOUT_S)
        with self._lock:
            for grader in self._graders:
                ray.kill(grader.handle)  # the child's supervisor sees its pipe close
            self._graders = []

    def _start(self, index: int) -> _Grader:
        handle = self._actor.remote(index, self._config, **self._settings)
        grader = _Grader(index=index, handle=handle, watch=Watch(timeout_s=self._config.timeout_s))
        self._ask(grader)
        return grader

    def _ask(self, grader: _Grader) -> None:
        """Asks for a sign of life, which a grader gives while it grades."""
        grader.is_asked = True
        asked = grader.handle.progress.options(concurrency_group=WATCHING).remote()
        asked.future().add_done_callback(
            lambda result: self._events.put(_Answer(grader=grader, number=None, result=result))
        )

    def _send(self, call: _Call) -> None:
        grader = min(self._graders, key=lambda each: len(each.calls))
        number = next(self._numbers)
        grader.calls[number] = call
        verdicts_ref = grader.handle.grade.remote(call.group_ref)
        verdicts_ref.future().add_done_callback(
            lambda result: self._events.put(_Answer(grader=grader, number=number, result=result))
        )

    def _serve(self) -> None:
        """Takes answers and looks after the graders, until close()."""
        looked_at = time.monotonic()
        try:
            while True:
                try:
                    event = self._events.get(timeout=TICK_S)
                except queue.Empty:
                    pass
                else:
                    if event is None:
                        break
                    with self._lock:
                        self._take(event)
                if (passed_s := time.monotonic() - looked_at) >= TICK_S and self._events.empty():
                    looked_at += passed_s
                    with self._lock:
                        self._look(min(passed_s, 2 * TICK_S))  # while this process is stopped, nobody else is late
        finally:  # after an error of our own too: waiting callers must wake up
            with self._lock:
                self._fail(GradingError("the graders have been ended; if that is not expected, see the run's log"))

    def _take(self, answer: _Answer) -> None:
        """Hands out what a grader answers; replaces it where it has died."""
        grader, error = answer.grader, answer.result.exception()
        if grader not in self._graders or self._error is not None:
            return  # it was replaced, and what it had is with others; or nothing is graded any more
        if answer.number is None:
            grader.is_asked = False
            if error is None:
                grader.watch.heard(answer.result.result())
                return
        if isinstance(error, RayActorError) and error.actor_init_failed:
            self._fail(_grading_error(grader.index, error))  # its successors would fail too
        elif isinstance(error, RayError) and not isinstance(error, RayTaskError | ObjectLostError):
            self._replace(grader, "died", cause=error)
        elif answer.number is not None:
            grader.watch.finished()
            verdicts = grader.calls.pop(answer.number).verdicts
            if error is None:
                verdicts.set_result(answer.result.result())
            else:
                verdicts.set_exception(_grading_error(grader.index, error))

    def _look(self, passed_s: float) -> None:
        """Replaces the graders that are stuck, and asks those that have not been heard of."""
        for grader in [each for each in self._graders if each.calls]:
            if complaint := grader.watch.complaint(passed_s):
                self._replace(grader, complaint, cause=None)
            elif grader.watch.silent_s > TICK_S and not grader.is_asked:
                self._ask(grader)

    def _replace(self, grader: _Grader, fault: str, *, cause: RayError | None) -> None:
        """Ends a grader, dead or stuck, and starts another in its place; others grade what it had."""
        line = f"grader {grader.index} {fault}; a new one takes its place; groups graded again: {len(grader.calls)}"
        self._on_fault(line, cause)
        ray.kill(grader.handle)
        if len(self._replaced.add(line)) > self._config.max_restarts:
            limit = f"graders.max_restarts={self._config.max_restarts}"
            self._fail(GradingError(f"grader {grader.index} {fault}, and {limit} within an hour are used up"))
            return
        self._graders[self._graders.index(grader)] = self._start(grader.index)
        for call in grader.calls.values():
            self._send(call)

    def _fail(self, error: GradingError) -> None:
        self._error = self._error or error
        for grader in self._graders:
            for call in grader.calls.values():
                call.verdicts.set_exception(self._error)
            grader.calls.clear()


def _grading_error(index: int, error: BaseException) -> GradingError:
    """The error that a group gets for a grader's, which is its own: another grader would have it too."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, GradingError):
        return GradingError(str(cause))
    logging.getLogger(__name__).error("grader %d: %s", index, error)
    if isinstance(cause, RayActorError):
        return GradingError(f"grader {index} cannot start; the cause is in the run's log")
    if isinstance(cause, RayError):
        return GradingError("a group was lost with the process or machine that held it; see the run's log")
    return GradingError(f"grader {index} failed: {type(cause).__name__}: {' '.join(str(cause).split())}")


def await_verdicts(references: Sequence[Verdicts]) -> list[GroupVerdicts]:
    """The GroupVerdicts of GraderPool.grade; GradingError where a reward or the graders fail.

    Waits without a limit of its own: the pool replaces graders that do not answer or do not get on, and fails what they
    have left where too many had to be replaced.
    """
    return [reference.result() for reference in references]
