"""What a person sees of a run's iterations: a line for each, a progress bar with the time left, and advice.

Each is a sink. Lines go to the console and to run.log through `log`, the journal's.
"""

import time
from collections import deque
from collections.abc import Callable

from rich.console import Console

from orchestration.journal.balance import Adviser
from orchestration.journal.eval_rows import Evaluation
from orchestration.journal.sink import Row, Sink
from orchestration.terminal.console import bar_fields, eval_lines, iteration_line, make_progress

Log = Callable[[str], None]
AVERAGED_ITERATIONS = 10  # over which the time left is estimated


class ProgressLines(Sink):
    """A line for each iteration and each set of an evaluation, and on a terminal the progress bar below them."""

    def __init__(
        self,
        log: Log,
        console: Console,
        *,
        shows_bar: bool,
        gate_name: str,
        num_iterations: int,
        start_iteration: int,
        last_row: Row,
    ) -> None:
        """last_row: of the iteration before start_iteration, shown until the next one ends; empty in a new run."""
        self._log = log
        self._num_iterations = num_iterations
        self._durations_s: deque[float] = deque(maxlen=AVERAGED_ITERATIONS)
        self._progress = make_progress(console, enabled=shows_bar)
        self._task = self._progress.add_task(
            gate_name, total=num_iterations, completed=start_iteration, **bar_fields(last_row, left_s=None)
        )

    def start(self) -> None:
        self._progress.start()
        self._last_end = time.perf_counter()

    def write_row(self, row: Row) -> None:
        now = time.perf_counter()
        self._durations_s.append(now - self._last_end)  # includes evaluations and checkpoints between iterations
        self._last_end = now
        num_left = self._num_iterations - int(row["iteration"]) - 1
        left_s = num_left * sum(self._durations_s) / len(self._durations_s)
        self._log(iteration_line(row, num_iterations=self._num_iterations, left_s=left_s))
        self._progress.update(self._task, advance=1, refresh=True, **bar_fields(row, left_s=left_s))

    def write_evaluation(self, iteration: int, evaluation: Evaluation) -> None:
        for line in eval_lines(iteration, evaluation.metrics):
            self._log(line)

    def close(self, *, failed: bool) -> None:
        self._progress.stop()


class AdviceLines(Sink):
    """A line where learner or engines wait for the other side (balance.py says when), and one at the end of a run."""

    def __init__(self, log: Log, *, max_staleness: int) -> None:
        self._log = log
        self._adviser = Adviser(max_staleness=max_staleness)

    def write_row(self, row: Row) -> None:
        if (advice := self._adviser.observe(row)) is not None:
            self._log(advice)

    def close(self, *, failed: bool) -> None:
        if not failed and (advice := self._adviser.conclude()) is not None:
            self._log(advice)
