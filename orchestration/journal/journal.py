"""The trace of a run: metrics, sample completions, evaluations, timers, spans, console lines, TensorBoard, the plot.

In: what the stages of an iteration measured. Out: files in the run's folder (docs/metrics.md lists names and units) and
one console line an iteration. A row is written when its iteration ended well, or not at all. The journal knows nothing
of Ray, torch or how numbers arise.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType

from rich.console import Console

from configs.schema import JournalConfig
from orchestration.journal.balance import Adviser
from orchestration.journal.curves import TensorBoardLog, draw_curves
from orchestration.journal.entry import IterationEntry, JournalError, checked
from orchestration.journal.eval_rows import EvalSample, write_samples
from orchestration.journal.json_lines import append_rows, keep_rows, read_rows
from orchestration.journal.run_files import EVAL_FILE, METRICS_FILE, NOTICES_FILE, ROLLOUTS_FILE, TRACE_FILE
from orchestration.journal.trace import TraceFile
from orchestration.terminal.console import bar_fields, eval_lines, iteration_line, make_progress, print_line
from transfer.spans import Span, SpanLog

EVALS_FOLDER = "evals"
NO_SAMPLES: Mapping[str, Sequence[EvalSample]] = MappingProxyType({})
LOG_FILE = "run.log"
CURVES_FILE = "curves.png"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalResult:
    """One evaluation; `iteration` iterations had been trained before it."""

    iteration: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """What a run came to, over all its iterations including those before a resume."""

    run_dir: Path
    num_iterations: int  # rows in metrics.jsonl
    reward_first10: float | None  # mean of reward/mean over the first 10 iterations; None where no row has it
    reward_last10: float | None
    evals: tuple[EvalResult, ...]  # in the order of the iterations
    final_metrics: Mapping[str, float]  # the last row; empty where there is none


class Journal:
    """`with Journal(...) as journal:` around the run, `with journal.iteration(k) as entry:` around each iteration.

    start_iteration > 0 continues a run: rows that were written after the checkpoint it continues from are moved to
    *.dropped.jsonl, so that the files of a resumed run equal those of an undisturbed one. At the end, also after a
    failure, the curves are drawn.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        config: JournalConfig,
        num_iterations: int,
        gate_name: str,
        start_iteration: int = 0,
        console: Console | None = None,
        adviser: Adviser | None = None,
    ) -> None:
        self._run_dir = run_dir
        self._config = config
        self._num_iterations = num_iterations
        self._gate_name = gate_name
        self._next_iteration = start_iteration
        self._console = console if console is not None else Console()
        self._adviser = adviser
        self._durations_s: deque[float] = deque(maxlen=10)
        self._log = SpanLog("driver")

        keep_rows(run_dir / METRICS_FILE, lambda row: row["iteration"] < start_iteration)
        keep_rows(run_dir / ROLLOUTS_FILE, lambda row: row["iteration"] < start_iteration)
        keep_rows(run_dir / EVAL_FILE, lambda row: row["iteration"] <= start_iteration)
        self._rows: list[dict[str, float]] = read_rows(run_dir / METRICS_FILE)
        found = [int(row["iteration"]) for row in self._rows]
        if found != list(range(start_iteration)):
            raise JournalError(
                f"{run_dir / METRICS_FILE}: a resume at iteration {start_iteration} needs one row for each iteration "
                f"before it and found {len(found)}; restore the file or start a new run"
            )
        self._tensorboard: TensorBoardLog | None = None
        if config.tensorboard:
            self._tensorboard = TensorBoardLog(run_dir / "tensorboard", start_iteration=start_iteration)
        self._trace = TraceFile(run_dir / TRACE_FILE) if config.trace else None
        self._progress = make_progress(self._console, enabled=config.progress)
        shown = bar_fields(self._rows[-1] if self._rows else {}, left_s=None)
        self._task = self._progress.add_task(gate_name, total=num_iterations, completed=start_iteration, **shown)

    def __enter__(self) -> "Journal":
        self._progress.start()
        self._last_end = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self._tensorboard is not None:
            self._tensorboard.close()
        self.record_spans(())
        if self._trace is not None:
            self._trace.close()
        if kind is None and self._adviser is not None and (advice := self._adviser.conclude()) is not None:
            self.log(advice)
        if len(self._rows) >= 2:
            progress = f"{len(self._rows)} of {self._num_iterations} iterations"
            title = f"{self._run_dir.name}: gate {self._gate_name}, {progress}"
            draw_curves(self._rows, self._run_dir / CURVES_FILE, title=title)
            self.log(f"curves: {self._run_dir / CURVES_FILE}")

    @contextmanager
    def iteration(self, iteration: int) -> Iterator[IterationEntry]:
        """Collects iteration number `iteration` (from 0).

        Its row, scalars and console line are written if the block ends well.
        """
        assert iteration == self._next_iteration, f"iteration {iteration} out of turn; next is {self._next_iteration}"
        with self.span("iteration"):
            entry = IterationEntry(
                iteration,
                rollouts_path=self._run_dir / ROLLOUTS_FILE,
                rollouts_limit=self._config.rollouts_per_iteration,
                log=self._log,
            )
            yield entry
        row = entry.row()
        self.record_spans(entry.spans)
        append_rows(self._run_dir / METRICS_FILE, [row])
        self._rows.append(row)
        self._next_iteration += 1
        if self._tensorboard is not None:
            self._tensorboard.write(iteration, {name: value for name, value in row.items() if name != "iteration"})
        now = time.perf_counter()
        self._durations_s.append(now - self._last_end)  # counts evaluations and checkpoints between iterations too
        self._last_end = now
        left_s = (self._num_iterations - iteration - 1) * sum(self._durations_s) / len(self._durations_s)
        self.log(iteration_line(row, num_iterations=self._num_iterations, left_s=left_s))
        if self._adviser is not None and (advice := self._adviser.observe(row)) is not None:
            self.log(advice)
        self._progress.update(self._task, advance=1, refresh=True, **bar_fields(row, left_s=left_s))

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """A span of the driver around work outside the stages of an iteration."""
        with self._log.span(name):
            yield

    def record_spans(self, spans: Iterable[Span]) -> None:
        """Appends spans of actors, and those of the driver that have ended, to the trace."""
        own = self._log.drain()
        if self._trace is not None:
            self._trace.append((*own, *spans))

    def record_eval(
        self, iteration: int, metrics: Mapping[str, float], *, samples: Mapping[str, Sequence[EvalSample]] = NO_SAMPLES
    ) -> None:
        """One evaluation (names eval/<set>/...) after `iteration` iterations: 0 is the untrained model.

        Samples, by set, go to evals/<iteration>/<set>.jsonl. An earlier evaluation of the same iteration and names,
        which a resume repeats, gives way to this one. Nothing is written where nothing was evaluated.
        """
        if not metrics:
            return
        numbers = checked(metrics, where=f"evaluation after {iteration} iterations")
        for name, of_set in samples.items():
            folder = self._run_dir / EVALS_FOLDER / str(iteration)
            folder.mkdir(parents=True, exist_ok=True)
            write_samples(folder / f"{name}.jsonl", of_set)
        row = {"iteration": iteration, **numbers}
        keep_rows(self._run_dir / EVAL_FILE, lambda old: old["iteration"] != iteration or old.keys() != row.keys())
        append_rows(self._run_dir / EVAL_FILE, [row])
        if self._tensorboard is not None:
            self._tensorboard.write(iteration, numbers)
        for line in eval_lines(iteration, numbers):
            self.log(line)

    def log(self, message: str) -> None:
        """One line on the console and, with the time of day, in run.log."""
        print_line(self._console, message)
        with (self._run_dir / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n")

    def notice(self, message: str) -> None:
        """A line of the log that the report repeats: what a reader of the results must know of how they came about."""
        self.log(message)
        append_rows(self._run_dir / NOTICES_FILE, [{"iteration": self._next_iteration, "text": message}])

    def result(self) -> RunResult:
        """What the run came to so far."""
        rewards = [row["reward/mean"] for row in self._rows if "reward/mean" in row]
        evals = [dict(row) for row in read_rows(self._run_dir / EVAL_FILE)]
        return RunResult(
            run_dir=self._run_dir,
            num_iterations=len(self._rows),
            reward_first10=sum(rewards[:10]) / len(rewards[:10]) if rewards else None,
            reward_last10=sum(rewards[-10:]) / len(rewards[-10:]) if rewards else None,
            evals=tuple(EvalResult(iteration=row.pop("iteration"), metrics=row) for row in evals),
            final_metrics=dict(self._rows[-1]) if self._rows else {},
        )
