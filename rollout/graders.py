"""Grading in processes that can be killed: Ray actors on CPUs, each with one child that alone touches untrusted text.

In: PromptGroups (as Ray references). Out: references to GroupVerdicts. A group that exceeds its time limit costs its
ungraded completions their reward and the child its life; the next group meets a new child. Knows no reward: the child
imports it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing import Pipe
from typing import Any

import ray

from actors.answers import reason
from rollout.contract import GroupVerdicts, PromptGroup, RewardVerdict
from rollout.grader_child import OUT_OF_MEMORY_STATUS, READY

REWARD_FUNCTION = "rollout.rewards:grade_completion"
CHILD_START_TIMEOUT_S = 60.0  # an import of numpy on a busy machine, with room
CLOSE_TIMEOUT_S = 10.0
KERNEL_TIMER_MARGIN_S = 1.0  # the child's own timer strikes after ours: it is for children whose actor is gone
MAX_RESTARTS = 3  # of one actor, by Ray
NO_REWARD = RewardVerdict(format=0.0, answer=0.0)


class GraderChild:
    """One child process and the pipe to it. Not thread-safe."""

    def __init__(self, *, timeout_s: float, reward_function: str) -> None:
        self._timeout_s = timeout_s
        self._reward_function = reward_function
        self._start()

    def grade(self, texts: list[str], *, reference_answer: str) -> list[RewardVerdict]:
        """Verdicts in order, as many as the time limit allowed; with fewer than texts the child has been replaced."""
        if self._process.poll() is not None:  # it died between groups, without any of this group's doing
            self._replace()
        deadline = time.monotonic() + self._timeout_s
        verdicts: list[RewardVerdict] = []
        try:
            self._connection.send_bytes(json.dumps({"texts": texts, "reference": reference_answer}).encode())
            while len(verdicts) < len(texts) and self._connection.poll(max(0.0, deadline - time.monotonic())):
                format_part, answer_part = json.loads(self._connection.recv_bytes())
                verdicts.append(RewardVerdict(format=format_part, answer=answer_part))
        except (EOFError, ConnectionError):
            self._check_met_a_limit()
        if len(verdicts) < len(texts):
            self._replace()
        return verdicts

    def close(self) -> None:
        """Kill the child and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def _start(self) -> None:
        self._connection, child_end = Pipe()
        command = [sys.executable, "-m", "rollout.grader_child"]
        command += ["--descriptor", str(child_end.fileno()), "--reward", self._reward_function]
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
                f"grader child for {self._reward_function} did not start within {CHILD_START_TIMEOUT_S:.0f} s "
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
                f"{self._reward_function} raised (exit status {status}); the traceback is in the log of the Ray worker"
            )


class GraderWorker:
    """The actor around one child."""

    def __init__(self, *, timeout_s: float, reward_function: str) -> None:
        self._child = GraderChild(timeout_s=timeout_s, reward_function=reward_function)

    def grade(self, group: PromptGroup) -> GroupVerdicts:
        """Verdicts on the group's completions; those that met no verdict in time get zeros and are counted."""
        texts = [completion.text for completion in group.completions]
        verdicts = self._child.grade(texts, reference_answer=group.prompt.reference_answer)
        timed_out = len(texts) - len(verdicts)
        return GroupVerdicts(verdicts=(*verdicts, *[NO_REWARD] * timed_out), timed_out=timed_out)

    def close(self) -> None:
        self._child.close()


class GraderPool:
    """Spreads groups over grader actors, always to the one with the fewest unfinished groups.

    num_cpus is each actor's share of the cluster's CPUs; 0 lets graders run beside whatever holds the cores.
    """

    def __init__(
        self, num_workers: int, timeout_s: float, *, num_cpus: float = 0.0, reward_function: str = REWARD_FUNCTION
    ) -> None:
        # Grading is pure, so Ray may repeat a group whose actor died.
        actor = ray.remote(GraderWorker).options(
            num_cpus=num_cpus, max_restarts=MAX_RESTARTS, max_task_retries=MAX_RESTARTS
        )
        self._workers = [actor.remote(timeout_s=timeout_s, reward_function=reward_function) for _ in range(num_workers)]
        self._outstanding: list[list[Any]] = [[] for _ in self._workers]

    def grade(self, group_ref: Any) -> Any:
        """Start grading a PromptGroup (or a reference to one); gives a reference to its GroupVerdicts at once."""
        for index, references in enumerate(self._outstanding):
            if references:
                _, unfinished = ray.wait(references, num_returns=len(references), timeout=0, fetch_local=False)
                self._outstanding[index] = unfinished
        chosen = min(range(len(self._workers)), key=lambda index: len(self._outstanding[index]))
        verdicts_ref = self._workers[chosen].grade.remote(group_ref)
        self._outstanding[chosen].append(verdicts_ref)
        return verdicts_ref

    def close(self) -> None:
        """End all actors and their children; unfinished groups are lost. Safe to call twice."""
        for worker in self._workers:
            ray.kill(worker)  # the child sees its pipe close, or its timer strike
        self._workers, self._outstanding = [], []


class GradingError(RuntimeError):
    """The graders failed or did not answer in time."""


def await_verdicts(references: Sequence[Any], *, timeout_s: float) -> list[GroupVerdicts]:
    """GroupVerdicts behind references of GraderPool.grade; GradingError where a grader fails or timeout_s passes."""
    try:
        answers: list[GroupVerdicts] = ray.get(list(references), timeout=timeout_s)
    except ray.exceptions.GetTimeoutError:
        raise GradingError(f"the graders did not grade {len(references)} groups within {timeout_s:g} s") from None
    except ray.exceptions.RayError as error:
        raise GradingError(f"a grader failed: {reason(error)}") from error
    return answers
