"""Console output while a study runs: a bar over all iterations, a bar a running arm, and lines.

In: the events of the schedule. Out: lines, and on a terminal bars with iteration numbers and the time left. Computes
only that time.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import TaskID

from orchestration.journal.json_lines import read_rows
from orchestration.journal.run_files import METRICS_FILE
from orchestration.study.arms import ArmStatus
from orchestration.study.schedule import Failure
from orchestration.terminal.console import duration, make_progress, print_line


class StudyProgress:
    """`with StudyProgress(...) as progress:` around run_arms(..., observer=progress)."""

    def __init__(self, statuses: Sequence[ArmStatus], console: Console) -> None:
        self._console = console
        self._wanted = {status.arm.name: status.arm.config.num_iterations for status in statuses}
        kept = ("finished", "stopped")
        self._rows = {each.arm.name: each.num_iterations if each.state in kept else 0 for each in statuses}
        self._rows_at_start = sum(self._rows.values())
        self._ended = sum(status.state == "finished" for status in statuses)
        self._num_arms = len(statuses)
        self._tasks: dict[str, TaskID] = {}
        self._bar = make_progress(console)

    def __enter__(self) -> "StudyProgress":
        self._start = time.monotonic()
        self._total = self._bar.add_task("", total=sum(self._wanted.values()), left="")
        self._show()
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def started(self, status: ArmStatus, *, moved_aside: Path | None) -> None:
        name = status.arm.name
        if moved_aside is not None:
            self._say(f"{name}: an earlier run left no checkpoint; it is kept as {moved_aside.name}")
        self._say(f"{name}: resumes" if status.state == "stopped" else f"{name}: starts")
        self._tasks[name] = self._bar.add_task(f"  {name}", total=self._wanted[name], left="starting ...")

    def progressed(self, name: str, num_iterations: int) -> None:
        if num_iterations != self._rows[name]:
            self._rows[name] = num_iterations
            self._bar.update(self._tasks[name], completed=num_iterations, left="", refresh=True)
            self._show()

    def ended(self, status: ArmStatus, failure: Failure | None, *, elapsed_s: float) -> None:
        name = status.arm.name
        if name in self._tasks:
            self._bar.remove_task(self._tasks.pop(name))
        self._ended += 1
        if failure is None:
            rows = read_rows(status.folder / METRICS_FILE)[-10:]
            rewards = [row["reward/mean"] for row in rows if "reward/mean" in row]
            reward = f", reward {sum(rewards) / len(rewards):.2f} points at the end" if rewards else ""
            self._say(f"{name}: done in {duration(elapsed_s)}{reward}, {self._arms()}{self._left()}")
        else:
            self._say(f"{name}: failed, {failure.reason}; the end of {failure.log_path}:")
            for line in failure.lines:
                self._say(f"    {line}")
        self._show()

    def _arms(self) -> str:
        return f"{self._ended} of {self._num_arms} arms"

    def _left(self) -> str:
        """Time left at the pace so far, including the starts of runs."""
        done = sum(self._rows.values()) - self._rows_at_start
        open_rows = sum(max(0, self._wanted[name] - self._rows[name]) for name in self._wanted)
        if not done or not open_rows:
            return ""
        return f", about {duration((time.monotonic() - self._start) / done * open_rows)} left"

    def _show(self) -> None:
        self._bar.update(
            self._total,
            description=self._arms(),
            completed=sum(self._rows.values()),
            left=self._left().removeprefix(", "),
            refresh=True,
        )

    def _say(self, text: str) -> None:
        print_line(self._console, text)
