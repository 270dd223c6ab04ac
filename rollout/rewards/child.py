"""A grader's child from the side of its actor: started, fed, held to its limits, replaced when it is lost.

In: texts and a reference answer. Out: verdicts. A completion that exceeds a limit costs its own reward and the child
its life; a child that is lost without such a reason costs nothing, because its completion is tried once more. Knows no
reward: the child imports it.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Literal

from configs.graders import GradersConfig
from configs.rewards import RewardConfig
from rollout.contract import RewardVerdict
from rollout.rewards.output import OutputLog
from rollout.rewards.supervisor import OUT_OF_MEMORY_STATUS, SIGNAL_STATUS, TOO_MANY_PROCESSES_STATUS, end_marked
from transfer.patience import Patience

REWARD_FACTORY = "rollout.rewards.functions:make_reward"
CHILD_START_TIMEOUT_S = 60.0  # an import of numpy on a busy machine, with room
CLOSE_TIMEOUT_S = 20.0
MARKER = "SOFTGATE_GRADER"  # variable that tells the processes of one child from all others


class GradingError(RuntimeError):
    """A reward or the graders failed, or did not answer in time; the message names which."""


LossKind = Literal["timeout", "limit", "exit", "signal"]  # limit: of memory or processes


@dataclass(frozen=True, kw_only=True, slots=True)
class Loss:
    """How a child was lost before it had given all verdicts."""

    kind: LossKind
    how: str  # words for it, after the name of what was at work
    stage: Literal["starting", "preparing", "grading"]
    running: dict[str, Any] | None  # the child's message before the user's own reward that was at work

    @property
    def would_recur(self) -> bool:
        """Whether a second try would be lost too, for what was at work did it.

        A signal may come from outside; the threads and processes of an earlier reward may do the rest at any time.
        """
        is_its_doing = self.kind == "timeout" or (self.kind != "signal" and self.running is not None)
        return self.stage == "grading" and is_its_doing


class GraderChild:
    """One child process at a time and the pipe to it. Not thread-safe, but for `progress`."""

    _process: subprocess.Popen[bytes]  # the supervisor
    _connection: Connection  # our end of the pipe to the process below it
    _pump: threading.Thread  # thread that takes what both print
    _is_ready: bool

    def __init__(self, config: GradersConfig, *, reward: RewardConfig, reward_factory: str = REWARD_FACTORY) -> None:
        """reward_factory: import path of what makes the reward from its section."""
        self.progress = 0  # number of steps that children have got on by; for who watches from another thread
        self._config = config
        self._reward = reward
        self._reward_factory = reward_factory
        self._output = OutputLog()
        self._start()

    def grade(self, texts: list[str], *, reference_answer: str) -> list[RewardVerdict | None]:
        """Verdicts in order; None for a completion that met a limit, which costs the child its life.

        Where one of the user's own rewards met it, that reward and those after it count as 0. GradingError where one
        fails and reward.on_error is raise.
        """
        if self._process.poll() is not None:  # it died between groups, without any of this group's doing
            self._replace()
        verdicts: list[RewardVerdict | None] = []
        tried_again = -1  # number of the completion at which a child was lost for no reason of its own
        while len(verdicts) < len(texts):
            loss = self._grade_until_loss(texts, reference_answer, verdicts)
            if loss is None:
                break
            self._replace()
            if loss.would_recur or tried_again == len(verdicts):
                verdicts.append(self._verdict_after(loss))
            else:
                tried_again = len(verdicts)
        return verdicts

    def close(self) -> None:
        """End the child and all that it started, and wait until they are gone."""
        assert self._process.stdin is not None
        self._process.send_signal(signal.SIGCONT)
        self._process.stdin.close()  # the lifeline
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.returncode != 0:  # the supervisor may have been killed before it could do so
            end_marked(self._marker)
        self._connection.close()
        self._pump.join(CLOSE_TIMEOUT_S)

    def _grade_until_loss(
        self, texts: list[str], reference_answer: str, verdicts: list[RewardVerdict | None]
    ) -> Loss | None:
        """Appends the verdicts that the child gives on the rest of the texts; None where it gives all."""
        stage: Literal["starting", "preparing", "grading"] = "starting"
        limit_s, running = CHILD_START_TIMEOUT_S, None
        try:
            if not self._is_ready:
                self._is_ready = bool(self._message(Patience(limit_s)))
            stage = "preparing"
            rest = {"texts": texts[len(verdicts) :], "reference": reference_answer}
            self._connection.send_bytes(json.dumps(rest).encode())
            self._message(Patience(limit_s))
            stage, limit_s = "grading", self._config.timeout_s
            while len(verdicts) < len(texts):
                running, patience = None, Patience(limit_s)
                while "verdict" not in (message := self._message(patience)):
                    running = message
                verdicts.append(RewardVerdict.from_plain(message["verdict"]))
        except TimeoutError:
            setting = "graders.timeout_s=" if stage == "grading" else ""
            how = f"met its limit of {setting}{limit_s:g} s"
            return Loss(kind="timeout", how=how, stage=stage, running=running)
        except (EOFError, ConnectionError):
            kind, how = self._end()
            return Loss(kind=kind, how=how, stage=stage, running=running)
        return None

    def _message(self, patience: Patience) -> dict[str, Any]:
        """The child's next message. TimeoutError where none comes; GradingError where the child reports one."""
        for slice_s in patience:
            if self._connection.poll(slice_s):
                break
            self._process.send_signal(signal.SIGCONT)  # a supervisor that was stopped; it ends a child that was
        else:
            raise TimeoutError
        message: dict[str, Any] = json.loads(self._connection.recv_bytes())
        if "error" in message:
            self._replace()  # this one has the rest of the group before it
            raise GradingError(message["error"])
        self.progress += 1
        return message

    def _end(self) -> tuple[LossKind, str]:
        """How the child has ended, by the exit status of its supervisor."""
        try:
            status = self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "exit", "closed its pipe"
        if status == OUT_OF_MEMORY_STATUS:
            return "limit", f"met its limit of graders.memory_gib={self._config.memory_gib:g} GiB"
        if status == TOO_MANY_PROCESSES_STATUS:
            return "limit", f"met its limit of graders.max_processes={self._config.max_processes} processes"
        if status < 0 or status > SIGNAL_STATUS:
            number = -status if status < 0 else status - SIGNAL_STATUS
            return "signal", f"was ended by {_signal_name(number)}"
        return "exit", f"ended its process with exit status {status}"

    def _verdict_after(self, loss: Loss) -> RewardVerdict | None:
        """The verdict on the completion at which a child was lost, or the error that it is."""
        last = f"; its last line of output: {line}" if (line := self._output.last_line()) else ""
        if loss.stage != "grading":
            raise GradingError(f"the process of a grader {loss.how} while {loss.stage}{last}")
        if loss.running is not None:
            line = f"reward.extra.{loss.running['running']} {loss.how}"
            if self._reward.on_error == "raise":
                remedy = "correct it" if loss.kind in ("exit", "signal") else "make it cheaper, raise the limit"
                raise GradingError(f"{line}; {remedy} or set reward.on_error=zero")
            self._output.note(f"{line}; it counts as 0")
            return RewardVerdict.from_plain(loss.running["otherwise"])
        if loss.kind == "exit":
            raise GradingError(f"{self._reward_factory}: the reward {loss.how}{last}")
        return None

    def _start(self) -> None:
        """Starts a child, and does not wait for it."""
        self._is_ready = False
        self._marker = f"{MARKER}={secrets.token_hex(8)}"
        self._connection, child_end = Pipe()
        command = [sys.executable, "-m", "rollout.rewards.grader_child"]
        command += ["--descriptor", str(child_end.fileno()), "--reward", self._reward_factory]
        command += ["--settings", self._reward.model_dump_json()]
        command += ["--memory-bytes", str(int(self._config.memory_gib * 2**30))]
        command += ["--max-processes", str(self._config.max_processes)]
        environment = os.environ | {
            MARKER: self._marker.partition("=")[2],
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",  # or what it printed last would be lost with it
        }
        with child_end:  # once the child holds the only copy, its death reads as the end of the pipe
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[child_end.fileno()],
                start_new_session=True,
            )
        assert self._process.stdout is not None
        self._pump = self._output.follow(os.dup(self._process.stdout.fileno()))
        self._process.stdout.close()

    def _replace(self) -> None:
        self.close()
        self._start()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
