"""Grading in processes that can be killed: Ray actors on CPUs, each with one child that alone touches untrusted text.

In: PromptGroups (as Ray references). Out: references to GroupVerdicts. A completion that exceeds its time limit costs
its own reward and the child its life; the next completion meets a new child. Knows no reward: the child imports it.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing import Pipe
from typing import Any

import ray

from configs.rewards import RewardConfig
from rollout.contract import GroupVerdicts, PromptGroup, RewardVerdict
from rollout.rewards.functions import zero_verdict
from rollout.rewards.grader_child import OUT_OF_MEMORY_STATUS, READY
from transfer.answers import reason
from transfer.spans import Span, SpanLog

REWARD_FACTORY = "rollout.rewards.functions:make_reward"
CHILD_START_TIMEOUT_S = 60.0  # an import of numpy on a busy machine, with room
CLOSE_TIMEOUT_S = 10.0
KERNEL_TIMER_MARGIN_S = 1.0  # the child's own timer strikes after ours: it is for children whose actor is gone
SPAN_GAP_S = 0.005  # a grader with a queue pauses for less between two groups
MAX_RESTARTS = 3  # number of restarts of one actor, by Ray


class GradingError(RuntimeError):
    """A reward or the graders failed, or did not answer in time; the message names which."""


class GraderChild:
    """One child process and the pipe to it. Not thread-safe."""

    def __init__(self, *, timeout_s: float, reward: RewardConfig, reward_factory: str = REWARD_FACTORY) -> None:
        """timeout_s: for one completion. reward_factory: import path of what makes the reward from its section."""
        self._timeout_s = timeout_s
        self._reward = reward
        self._reward_factory = reward_factory
        self._start()

    def grade(self, texts: list[str], *, reference_answer: str) -> list[RewardVerdict | None]:
        """Verdicts in order; None for a completion that met a limit, which costs the child its life.

        Where one of the user's own rewards met it, that reward and those after it count as 0. GradingError where one
        fails and reward.on_error is raise.
        """
        if self._process.poll() is not None:  # it died between groups, without any of this group's doing
            self._replace()
        verdicts: list[RewardVerdict | None] = []
        while len(verdicts) < len(texts):
            verdicts += self._grade_until_limit(texts[len(verdicts) :], reference_answer)
        return verdicts

    def _grade_until_limit(self, texts: list[str], reference_answer: str) -> list[RewardVerdict | None]:
        """As many verdicts as the child gives; then that of the completion that met a limit, and a new child."""
        verdicts: list[RewardVerdict | None] = []
        running: dict[str, Any] = {}  # the child's message before the user's own reward that is at work
        try:
            self._connection.send_bytes(json.dumps({"texts": texts, "reference": reference_answer}).encode())
            if not self._message(CHILD_START_TIMEOUT_S):
                self.close()
                raise GradingError(f"a grader did not get ready for a group within {CHILD_START_TIMEOUT_S:.0f} s")
            while len(verdicts) < len(texts):
                running, deadline = {}, time.monotonic() + self._timeout_s
                while "verdict" not in (message := self._message(deadline - time.monotonic())):
                    if not message:
                        raise TimeoutError
                    if "error" in message:
                        raise GradingError(message["error"])
                    running = message
                verdicts.append(RewardVerdict.from_plain(message["verdict"]))
        except (TimeoutError, EOFError, ConnectionError) as error:
            if not isinstance(error, TimeoutError):
                self._check_met_a_limit()
            self._replace()
            if running and self._reward.on_error == "raise":
                raise GradingError(
                    f"reward.extra.{running['running']} met its limit of graders.timeout_s={self._timeout_s:g} s or of "
                    f"memory; make it cheaper, raise the limit or set reward.on_error=zero"
                ) from error
            verdicts.append(RewardVerdict.from_plain(running["otherwise"]) if running else None)
        return verdicts

    def _message(self, timeout_s: float) -> dict[str, Any]:
        """The child's next message; empty where none comes in time."""
        if not self._connection.poll(max(0.0, timeout_s)):
            return {}
        return json.loads(self._connection.recv_bytes())

    def close(self) -> None:
        """Kill the child and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def _start(self) -> None:
        self._connection, child_end = Pipe()
        command = [sys.executable, "-m", "rollout.rewards.grader_child"]
        command += ["--descriptor", str(child_end.fileno()), "--reward", self._reward_factory]
        command += ["--settings", self._reward.model_dump_json()]
        command += ["--timeout-s", str(self._timeout_s + KERNEL_TIMER_MARGIN_S)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
        with child_end:  # once the child holds the only copy, its death reads as the end of the pipe
            self._process = subprocess.Popen(
                command, env=environment, pass_fds=[child_end.fileno()], start_new_session=True
            )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        try:
            ready = self._connection.poll(CHILD_START_TIMEOUT_S) and self._connection.recv_bytes() == READY
        except EOFError:
            self._process.wait(CLOSE_TIMEOUT_S)  # its own exit status is worth more than that of our kill below
            ready = False
        if not ready:
            self.close()
            raise RuntimeError(
                f"grader child for {self._reward_factory} did not start within {CHILD_START_TIMEOUT_S:.0f} s "
                f"(exit status {self._process.returncode}); its error is in the log of the Ray worker"
            )

    def _replace(self) -> None:
        self.close()
        self._start()

    def _check_met_a_limit(self) -> None:
        """A child killed by a signal or out of memory met a limit; one that raised has a defective reward function."""
        status = self._process.wait(CLOSE_TIMEOUT_S)
        if status > 0 and status != OUT_OF_MEMORY_STATUS:
            raise RuntimeError(
                f"{self._reward_factory}: the reward raised (exit status {status}); the traceback is in the log of the "
                f"Ray worker"
            )


class GraderWorker:
    """The actor around one child."""

    def __init__(self, index: int, *, timeout_s: float, reward: RewardConfig, reward_factory: str) -> None:
        self._spans = SpanLog("grader", index, merge_gap_s=SPAN_GAP_S)
        self._without_reward = zero_verdict(reward)
        self._child = GraderChild(timeout_s=timeout_s, reward=reward, reward_factory=reward_factory)

    def grade(self, group: PromptGroup) -> GroupVerdicts:
        """Verdicts on the group's completions; those that met no verdict in time get zeros and are counted.

        GradingError, naming the prompt, where one of the user's own rewards fails and reward.on_error is raise.
        """
        texts = [completion.text for completion in group.completions]
        with self._spans.span("grade"):
            try:
                verdicts = self._child.grade(texts, reference_answer=group.prompt.reference_answer)
            except GradingError as error:
                raise GradingError(f"prompt {group.prompt.position}: {error}") from error
        graded = tuple(self._without_reward if verdict is None else verdict for verdict in verdicts)
        return GroupVerdicts(verdicts=graded, timed_out=verdicts.count(None))

    def drain_spans(self) -> tuple[Span, ...]:
        return self._spans.drain()

    def close(self) -> None:
        self._child.close()


class GraderPool:
    """Spreads groups over grader actors, always to the one with the fewest unfinished groups.

    num_cpus is each actor's share of the cluster's CPUs; 0 lets graders run beside whatever holds the cores.
    timeout_s is for one completion. grade() may be called from any thread, the other methods from one.
    """

    def __init__(
        self,
        num_workers: int,
        timeout_s: float,
        *,
        reward: RewardConfig,
        num_cpus: float = 0.0,
        reward_factory: str = REWARD_FACTORY,
    ) -> None:
        # Grading is pure, so Ray may repeat a group whose actor died.
        actor = ray.remote(GraderWorker).options(
            num_cpus=num_cpus, max_restarts=MAX_RESTARTS, max_task_retries=MAX_RESTARTS
        )
        self.workers = [
            actor.remote(index, timeout_s=timeout_s, reward=reward, reward_factory=reward_factory)
            for index in range(num_workers)
        ]
        self._outstanding: list[list[Any]] = [[] for _ in self.workers]
        self._choosing = threading.Lock()  # guards _outstanding
        self._asked: dict[Any, int] = {}  # reference of spans -> grader

    def grade(self, group_ref: Any) -> Any:
        """Start grading a PromptGroup (or a reference to one); gives a reference to its GroupVerdicts at once."""
        with self._choosing:
            for index, references in enumerate(self._outstanding):
                if references:
                    _, unfinished = ray.wait(references, num_returns=len(references), timeout=0, fetch_local=False)
                    self._outstanding[index] = unfinished
            chosen = min(range(len(self._outstanding)), key=lambda index: len(self._outstanding[index]))
            verdicts_ref = self.workers[chosen].grade.remote(group_ref)
            self._outstanding[chosen].append(verdicts_ref)
        return verdicts_ref

    def drain_spans(self) -> tuple[Span, ...]:
        """What graders did, as far as they have answered earlier calls; asks for the rest. Waits for nothing.

        GradingError where a grader has died.
        """
        waiting = list(self._asked)
        done = ray.wait(waiting, num_returns=len(waiting), timeout=0)[0] if waiting else []
        for reference in done:
            del self._asked[reference]
        try:
            answers: list[tuple[Span, ...]] = ray.get(done)
        except ray.exceptions.RayError as error:
            raise GradingError(f"a grader failed: {reason(error)}") from error
        at_work = set(self._asked.values())
        self._asked |= {
            worker.drain_spans.remote(): index for index, worker in enumerate(self.workers) if index not in at_work
        }
        return tuple(span for spans in answers for span in spans)

    def close(self) -> None:
        """End all actors and their children; unfinished groups are lost. Safe to call twice."""
        for worker in self.workers:
            ray.kill(worker)  # the child sees its pipe close, or its timer strike
        self.workers, self._outstanding = [], []


def await_verdicts(references: Sequence[Any], *, timeout_s: float) -> list[GroupVerdicts]:
    """GroupVerdicts behind references of GraderPool.grade; GradingError where a grader fails or timeout_s passes."""
    try:
        answers: list[GroupVerdicts] = ray.get(list(references), timeout=timeout_s)
    except ray.exceptions.GetTimeoutError:
        raise GradingError(f"the graders did not grade {len(references)} groups within {timeout_s:g} s") from None
    except ray.exceptions.RayError as error:
        raise GradingError(f"a grader failed: {reason(error)}") from error
    return answers
