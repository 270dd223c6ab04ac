"""One run of the public command while a plan strikes it; a killed driver is started again with resume=true.

In: a plan, a folder, settings. Out: a RoundResult with every event's time and each broken promise.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from orchestration.study.schedule import RowCounter
from tests.chaos.checks import broken_promises, differences
from tests.chaos.plan import Event, Plan
from tests.chaos.strikes import Stopped, complete_checkpoints, strike
from tests.processes import actor_processes

ROOT = Path(__file__).resolve().parents[2]
NUM_PROMPTS = 4
SETTINGS = (
    "experiment=smoke",
    f"rollout.prompts_per_iteration={NUM_PROMPTS}",
    f"journal.rollouts_per_iteration={NUM_PROMPTS}",
    "rollout.completions_per_prompt=4",
    "rollout.max_new_tokens=16",
    "rollout.num_engines=2",
    "learner.num_workers=2",
    "graders.num_workers=2",
    "graders.max_restarts=1000",
    "recovery.max_restarts=1000",
    "recovery.health_every_s=0.5",
    "recovery.health_timeout_s=8",  # what is stopped for good is noticed after it
    "learner.lr_schedule=constant",
    "journal.tensorboard=false",
    "eval.num_prompts=4",
)
POLL_S = 0.05
STANDSTILL_S = 600.0  # a run without a new row for so long has failed, on a busy machine too
LEAVE_TIMEOUT_S = 60.0  # limit for processes after the end of the command
LEFT_FOLDERS = ("vllm_dist_*", "ray/session_2*")  # below the folder for temporary files
SHOWN_LINES = 8  # last lines of a command that failed

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Struck:
    """An event that was carried out."""

    event: Event
    at_s: float  # since the round's begin
    what: str  # the process or file
    recovered_s: float | None  # from there to the next row; None where the run ended before


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundResult:
    """A finished round; it is well if no promise is broken."""

    plan: Plan
    seconds: float
    struck: tuple[Struck, ...]
    broken: tuple[str, ...]


class Round:
    """The run of one plan."""

    def __init__(self, plan: Plan, run_dir: Path, settings: Sequence[str], *, num_iterations: int, tell: Tell) -> None:
        self._plan = plan
        self._run_dir = run_dir
        self._settings = [
            *SETTINGS,
            *settings,
            f"num_iterations={num_iterations}",
            f"max_staleness={plan.max_staleness}",
        ]
        self._num_iterations = num_iterations
        self._tell = tell
        self._stopped = Stopped()
        self._waiting = list(plan.events)
        self._struck: list[Struck] = []
        self._open: list[tuple[int, int, float]] = []  # places in _struck that await a row, rows then, time
        self._rows = RowCounter(run_dir / "metrics.jsonl")
        self._most_rows = 0
        self._output = run_dir.with_suffix(".txt")
        # Not below run_dir: the paths of Ray's sockets have 107 characters at most.
        self._temporary = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))

    def play(self, *, undisturbed: Path | None) -> RoundResult:
        """Runs to the end; undisturbed: folder of the run that a synchronous one must equal."""
        self._begun = time.monotonic()
        before = actor_processes()
        try:
            broken = self._run()
        finally:
            self._stopped.release()
        seconds = time.monotonic() - self._begun
        if not broken:
            broken = list(
                broken_promises(
                    self._run_dir,
                    num_iterations=self._num_iterations,
                    num_prompts=NUM_PROMPTS,
                    max_staleness=self._plan.max_staleness,
                )
            )
            if undisturbed is not None:
                broken += differences(self._run_dir, undisturbed)
        if "Traceback (most recent call last)" in self._output.read_text():
            broken.append("a traceback is on the console")
        deadline = time.monotonic() + LEAVE_TIMEOUT_S
        while (left := actor_processes() - before) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        broken += [f"left behind: process {process.pid}, {process.command}" for process in left]
        broken += [f"left behind: {path}" for pattern in LEFT_FOLDERS for path in self._temporary.glob(pattern)]
        shutil.rmtree(self._temporary, ignore_errors=True)
        return RoundResult(plan=self._plan, seconds=seconds, struck=tuple(self._struck), broken=tuple(broken))

    def _run(self) -> list[str]:
        """Starts the command as often as its driver is killed; what went wrong."""
        resume: list[str] = []
        while True:
            driver = self._start(resume)
            was_killed = self._watch(driver)
            status = driver.returncode
            if status == 0:
                for event in self._waiting:
                    self._tell(f"not struck, the run was over before: {event.describe()}")
                return []
            if not was_killed:
                return [f"the command ended with status {status}: {' | '.join(self._last_lines())}"]
            has_begun = any((self._run_dir / name).exists() for name in ("metrics.jsonl", "checkpoints"))
            resume = ["resume=true"] if has_begun else []

    def _start(self, resume: Sequence[str]) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "orchestration/run.py", *self._settings, f"run_dir={self._run_dir}", *resume]
        with self._output.open("ab") as output:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "COLUMNS": "200", "PYTHONPATH": str(ROOT), "TMPDIR": str(self._temporary)},
                start_new_session=True,
            )

    def _watch(self, driver: "subprocess.Popen[bytes]") -> bool:
        """Strikes when events are due, until the driver ends; whether it was killed here."""
        was_killed, last, changed = False, -1, time.monotonic()
        due: float | None = None  # when the next event comes, once the run has reached its iteration
        while driver.poll() is None:
            rows, now = self._rows.count(), time.monotonic()
            if rows != last:
                last, changed = rows, now
                self._note_rows(rows, now)
            if due is None and self._waiting and self._has_reached(self._waiting[0], rows):
                due = now + self._waiting[0].delay_s
            if due is not None and now >= due:
                due, event = None, self._waiting.pop(0)
                self._carry_out(event, driver, rows)
                was_killed |= event.target == "driver" and event.kind in ("kill", "damage")
            elif now - changed > STANDSTILL_S:
                self._stopped.release()
                driver.kill()
                driver.wait()
                self._tell(f"nothing has happened for {STANDSTILL_S:.0f} s; the command is ended")
                return False
            time.sleep(POLL_S)
        return was_killed

    def _has_reached(self, event: Event, rows: int) -> bool:
        """Whether the run has come to the event's iteration; one that damages a checkpoint needs an older one, too."""
        return rows >= event.iteration and not (
            event.kind == "damage" and len(complete_checkpoints(self._run_dir / "checkpoints")) < 2
        )

    def _carry_out(self, event: Event, driver: "subprocess.Popen[bytes]", rows: int) -> None:
        now = time.monotonic()
        what = strike(event, psutil.Process(driver.pid), self._run_dir, self._stopped)
        self._tell(f"{now - self._begun:6.1f} s  after {rows} iterations: {event.describe()} ({what})")
        self._open.append((len(self._struck), rows, now))
        self._struck.append(Struck(event=event, at_s=now - self._begun, what=what, recovered_s=None))

    def _note_rows(self, rows: int, now: float) -> None:
        """Closes the events since which an iteration has finished that had not been finished before."""
        for place, then, struck_at in [each for each in self._open if rows > each[1]]:
            self._open.remove((place, then, struck_at))
            one = self._struck[place]
            self._struck[place] = Struck(event=one.event, at_s=one.at_s, what=one.what, recovered_s=now - struck_at)

    def _last_lines(self) -> list[str]:
        return self._output.read_text(errors="replace").splitlines()[-SHOWN_LINES:]
