"""Runs the arms of a study that are not finished, a few at once, and continues when one fails.

In: the status of every arm and a launcher. Out: the arms that failed, with the last lines of their logs. Knows neither
gates nor statistics; of a run it watches the exit status and the number of rows.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from orchestration.journal.run_files import LOG_FOLDER, METRICS_FILE, last_lines
from orchestration.study.arms import ArmStatus, arm_status, clear_the_way, run_arguments
from orchestration.study.launch import Launched, Launcher
from orchestration.terminal.stopping import urgent

SHOWN_LINES = 8  # log lines shown of an arm that failed
POLL_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """An arm that did not finish."""

    name: str
    reason: str
    lines: tuple[str, ...]  # last lines of its log
    log_path: Path


class Observer(Protocol):
    """Receives the events of the schedule."""

    def started(self, status: ArmStatus, *, moved_aside: Path | None) -> None: ...

    def progressed(self, name: str, num_iterations: int) -> None: ...

    def ended(self, status: ArmStatus, failure: Failure | None, *, elapsed_s: float) -> None: ...


@dataclass(kw_only=True, slots=True)
class _Running:
    status: ArmStatus
    run: Launched
    rows: "RowCounter"
    started_at: float


class RowCounter:
    """Counts the rows of a growing file; reads only what is new."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._count = 0

    def count(self) -> int:
        size = self._path.stat().st_size if self._path.exists() else 0
        if size < self._offset:  # a resume removed rows
            self._offset = self._count = 0
        if size > self._offset:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read(size - self._offset)
            self._count += new.count(b"\n")
            self._offset += len(new)
        return self._count


def run_arms(
    statuses: Sequence[ArmStatus], study_dir: Path, *, launcher: Launcher, parallel: int, observer: Observer
) -> list[Failure]:
    """Starts the unfinished arms in order, `parallel` at once; a replayed arm waits for its recording.

    An exception, such as that of Ctrl-C, interrupts the runs and waits for their end; another Ctrl-C kills them.
    """
    waiting = [status for status in statuses if status.state != "finished"]
    running: list[_Running] = []
    failures: list[Failure] = []
    try:
        while waiting or running:
            while len(running) < parallel:
                failed = {failure.name for failure in failures}
                unfinished = [*waiting, *(item.status for item in running)]
                ready = next((status for status in waiting if not _recorders(status, unfinished)), None)
                if ready is None:
                    break
                waiting.remove(ready)
                lost = [name for name in _recorders(ready, statuses) if name in failed]
                if lost:
                    failures.append(_failure(ready.arm.name, f"{lost[0]} failed, which it replays", study_dir))
                    observer.ended(ready, failures[-1], elapsed_s=0.0)
                else:
                    running.append(_start(ready, study_dir, launcher=launcher, observer=observer))
            for item in list(running):
                observer.progressed(item.status.arm.name, item.rows.count())
                exit_status = item.run.exit_status()
                if exit_status is not None:
                    running.remove(item)
                    failures.extend(_ended(item, exit_status, study_dir, observer=observer))
            if running:
                time.sleep(POLL_S)
    finally:
        with urgent(), ExitStack() as ending:  # every run is awaited, even where awaiting another fails
            for item in running:
                ending.callback(item.run.await_end)
            for item in running:
                item.run.interrupt()
    return failures


def _recorders(status: ArmStatus, statuses: Sequence[ArmStatus]) -> list[str]:
    """Names of the arms whose recording this arm replays: at most one."""
    source = status.arm.replays
    return [other.arm.name for other in statuses if source is not None and other.arm.records == source]


def _start(status: ArmStatus, study_dir: Path, *, launcher: Launcher, observer: Observer) -> _Running:
    moved_aside = clear_the_way(status)
    run = launcher.start(
        status.arm.name, run_arguments(status), log_path=study_dir / LOG_FOLDER / f"{status.arm.name}.log"
    )
    observer.started(status, moved_aside=moved_aside)
    rows = RowCounter(status.folder / METRICS_FILE)
    return _Running(status=status, run=run, rows=rows, started_at=time.monotonic())


def _ended(item: _Running, exit_status: int, study_dir: Path, *, observer: Observer) -> list[Failure]:
    status = arm_status(item.status.arm, study_dir)
    failure = None
    if exit_status:
        failure = _failure(status.arm.name, f"ended with status {exit_status}", study_dir)
    elif status.state != "finished":
        failure = _failure(status.arm.name, f"ended after {status.num_iterations} iterations", study_dir)
    observer.ended(status, failure, elapsed_s=time.monotonic() - item.started_at)
    return [failure] if failure else []


def _failure(name: str, reason: str, study_dir: Path) -> Failure:
    log_path = study_dir / LOG_FOLDER / f"{name}.log"
    return Failure(name=name, reason=reason, lines=tuple(last_lines(log_path, SHOWN_LINES)), log_path=log_path)
