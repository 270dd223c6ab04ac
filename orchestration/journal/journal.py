"""The journal of a run: collects what its stages measured and gives it to every output.

In: metrics, graded groups, spans and evaluations of the loop. Out: calls of the sinks, which write files and console
lines (docs/metrics.md lists names and units), and the log. The journal knows nothing of Ray or torch, nor how numbers
are computed.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType

from rich.console import Console

from configs.journal import JournalConfig
from orchestration.journal.console_lines import AdviceLines, ProgressLines
from orchestration.journal.entry import IterationEntry, checked
from orchestration.journal.eval_rows import Evaluation
from orchestration.journal.json_lines import append_rows, iterate_rows, read_rows
from orchestration.journal.log_file import LogFile
from orchestration.journal.row_files import EvalFiles, MetricsFile, RolloutsFile
from orchestration.journal.run_files import EVAL_FILE, METRICS_FILE, NOTICES_FILE, TRACE_FILE
from orchestration.journal.sink import Sink
from orchestration.journal.tensorboard import TensorBoardLog
from orchestration.journal.trace import TraceFile
from orchestration.terminal.console import print_line
from transfer.spans import Span, SpanLog

MIB = 2**20
AVERAGED = 10  # iterations whose mean reward the result has, of either end


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalResult:
    """One evaluation; `iteration` iterations had been trained before it."""

    iteration: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult:
    """The results of a run over all its iterations, including those before a resume."""

    run_dir: Path
    num_iterations: int  # rows in metrics.jsonl
    reward_first10: float | None  # mean of reward/mean over the first 10 iterations; None where no row has it
    reward_last10: float | None
    evals: tuple[EvalResult, ...]  # evaluations in the order of the iterations
    final_metrics: Mapping[str, float]  # the last row; empty where there is none


class Journal:
    """`with Journal(...) as journal:` around the run, `with journal.iteration(k) as entry:` around each iteration.

    start_iteration > 0 continues a run: rows that were written after the checkpoint it continues from are moved to
    *.dropped.jsonl, so that the files of a resumed run equal those of an undisturbed one.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        config: JournalConfig,
        num_iterations: int,
        max_staleness: int,
        gate_name: str,
        start_iteration: int = 0,
        console: Console | None = None,
    ) -> None:
        self._run_dir = run_dir
        self._next_iteration = start_iteration
        self._console = console if console is not None else Console()
        self._driver = SpanLog("driver")
        self._log_file = LogFile(run_dir, limit_bytes=config.log_mib * MIB)
        metrics = MetricsFile(run_dir, start_iteration=start_iteration)
        # They write in this order and close in the reverse one. A new output is one line here.
        sinks: list[Sink | None] = [
            metrics,
            RolloutsFile(
                run_dir,
                start_iteration=start_iteration,
                num_groups=config.rollouts_per_iteration,
                limit_bytes=config.rollouts_mib * MIB,
            ),
            EvalFiles(run_dir, start_iteration=start_iteration, limit_bytes=config.evals_mib * MIB),
            TensorBoardLog(run_dir, start_iteration=start_iteration) if config.tensorboard else None,
            TraceFile(run_dir / TRACE_FILE, limit_bytes=config.trace_mib * MIB) if config.trace else None,
            self._log_file,
            ProgressLines(
                self.log,
                self._console,
                shows_bar=config.progress,
                gate_name=gate_name,
                num_iterations=num_iterations,
                start_iteration=start_iteration,
                last_row=metrics.last_row,
            ),
            AdviceLines(self.log, max_staleness=max_staleness),
        ]
        self._sinks = [sink for sink in sinks if sink is not None]
        self._closing = ExitStack()  # closes every sink even where one fails

    def __enter__(self) -> "Journal":
        for sink in self._sinks:
            self._closing.push(partial(_close, sink))
            sink.start()
        self._closing.callback(self.record_spans, ())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._closing.__exit__(kind, error, trace)
        except OSError:
            if kind is None:  # else what ended the run counts, often the same full disk
                raise

    @contextmanager
    def iteration(self, iteration: int) -> Iterator[IterationEntry]:
        """Collects iteration number `iteration` (from 0); its row is written if the block ends without an error."""
        assert iteration == self._next_iteration, f"iteration {iteration} out of turn; next is {self._next_iteration}"
        with self.span("iteration"):
            entry = IterationEntry(iteration, sinks=self._sinks, driver=self._driver)
            yield entry
        row = entry.row()
        self.record_spans(entry.spans)
        self._next_iteration += 1
        for sink in self._sinks:
            sink.write_row(row)

    def span(self, name: str) -> AbstractContextManager[None]:
        """A span of the driver around work outside the stages of an iteration."""
        return self._driver.span(name)

    def record_spans(self, spans: Iterable[Span]) -> None:
        """Writes spans of actors, and those of the driver that have ended."""
        ended = (*self._driver.drain(), *spans)
        for sink in self._sinks:
            sink.write_spans(ended)

    def record_eval(self, iteration: int, evaluation: Evaluation) -> None:
        """Writes one evaluation after `iteration` iterations (0: the untrained model), none that has no metrics."""
        if not evaluation.metrics:
            return
        numbers = checked(evaluation.metrics, where=f"evaluation after {iteration} iterations")
        for sink in self._sinks:
            sink.write_evaluation(iteration, replace(evaluation, metrics=numbers))

    def has_evaluation(self, iteration: int) -> bool:
        """Whether the run has an evaluation after `iteration` iterations, be it from before a resume."""
        return any(row["iteration"] == iteration for row in read_rows(self._run_dir / EVAL_FILE))

    def log(self, message: str) -> None:
        """One line on the console and, with the time of day, in run.log."""
        print_line(self._console, message)
        self._log_file.write(message)

    def notice(self, message: str) -> None:
        """A line of the log that the report repeats: a fact that a reader of the results must know."""
        self.log(message)
        append_rows(self._run_dir / NOTICES_FILE, [{"iteration": self._next_iteration, "text": message}])

    def result(self) -> RunResult:
        """The results so far, from the files."""
        first: list[float] = []
        last: deque[float] = deque(maxlen=AVERAGED)
        num_rows, final = 0, {}
        for row in iterate_rows(self._run_dir / METRICS_FILE):
            num_rows, final = num_rows + 1, row
            if "reward/mean" in row:
                last.append(row["reward/mean"])
                first = first if len(first) == AVERAGED else [*first, row["reward/mean"]]
        evals = read_rows(self._run_dir / EVAL_FILE)
        return RunResult(
            run_dir=self._run_dir,
            num_iterations=num_rows,
            reward_first10=sum(first) / len(first) if first else None,
            reward_last10=sum(last) / len(last) if last else None,
            evals=tuple(EvalResult(iteration=row.pop("iteration"), metrics=row) for row in evals),
            final_metrics=final,
        )


def _close(sink: Sink, kind: type[BaseException] | None, *_: object) -> None:
    sink.close(failed=kind is not None)
