"""The sinks for the console: a line for each iteration, a progress bar with the time left, and advice.

In: rows of metrics. Out: lines of text with units, through the journal's `log` to the console and to run.log, and the
bar. Nothing here computes a metric.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console

from orchestration.journal.balance import Adviser
from orchestration.journal.eval_rows import Evaluation
from orchestration.journal.run_files import reward_metrics
from orchestration.journal.sink import Row, Sink
from orchestration.terminal.console import duration, make_progress

Log = Callable[[str], None]
AVERAGED_ITERATIONS = 10  # number of last iterations from which the time left is estimated
# Name in metrics.jsonl and format of the value in the line of an iteration; metrics that a row lacks are left out. The
# single rewards stand between the first and the second.
ITERATION_COLUMNS = (
    ("reward/mean", "reward {:.2f} points"),
    ("gate/eur", "EUR {:.1%}"),
    ("policy/entropy", "entropy {:.3f} nats"),
    ("throughput/tokens_per_s", "{:,.0f} tokens/s"),
    ("completion/length_mean", "length {:.1f} tokens"),
    ("staleness/mean", "staleness {:.1f} versions"),
    ("time/iteration_s", "{:.2f} s"),
)
BAR_METRICS = ("reward/mean", "gate/eur", "policy/entropy", "throughput/tokens_per_s")  # metrics that fit 80 characters


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
            gate_name, total=num_iterations, completed=start_iteration, **_bar_fields(last_row, left_s=None)
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
        self._log(_iteration_line(row, num_iterations=self._num_iterations, left_s=left_s))
        self._progress.update(self._task, advance=1, refresh=True, **_bar_fields(row, left_s=left_s))

    def write_evaluation(self, iteration: int, evaluation: Evaluation) -> None:
        for line in _eval_lines(iteration, evaluation.metrics):
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


def _bar_fields(row: Mapping[str, float], *, left_s: float | None) -> dict[str, Any]:
    """Fields of a task of make_progress: numbers of the last row with units, and time left (None: not known yet)."""
    return {
        "numbers": _numbers({name: row[name] for name in BAR_METRICS if name in row}),
        "left": "gone" if left_s is None else f"gone, {duration(left_s)} left",
    }


def _iteration_line(row: Mapping[str, float], *, num_iterations: int, left_s: float) -> str:
    """Console line of an iteration: number, rewards and metrics of ITERATION_COLUMNS that the row has, time left."""
    width = len(str(num_iterations))
    number = f"iteration {int(row['iteration']) + 1:>{width}}/{num_iterations}"
    return "  ".join(part for part in (number, _numbers(row), f"left {duration(left_s)}") if part)


def _numbers(row: Mapping[str, float]) -> str:
    rewards = tuple((metric, f"{name} {{:.2f}}") for name, metric in reward_metrics(row).items())
    columns = (*ITERATION_COLUMNS[:1], *rewards, *ITERATION_COLUMNS[1:])
    return "  ".join(text.format(row[name]) for name, text in columns if name in row)


def _eval_lines(iteration: int, metrics: Mapping[str, float]) -> list[str]:
    """Console lines of an evaluation, one a set: lengths in tokens, the rest in percent, intervals in brackets."""
    sets: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        name, _, metric = key.removeprefix("eval/").rpartition("/")
        sets.setdefault(name, {})[metric] = value
    return [
        "  ".join([f"evaluation after {iteration} iterations", name, *_eval_parts(numbers)])
        for name, numbers in sets.items()
    ]


def _eval_parts(numbers: Mapping[str, float]) -> Iterator[str]:
    for metric, value in numbers.items():
        if metric.endswith(("_low", "_high")):  # printed with the metric that they bound
            continue
        text = f"{value:.1f} tokens" if metric == "length" else f"{value:.1%}"
        if f"{metric}_low" in numbers:
            text += f" [{numbers[f'{metric}_low']:.1%}, {numbers[f'{metric}_high']:.1%}]"
        yield f"{metric} {text}"
