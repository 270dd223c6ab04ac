"""What one iteration measured, collected into one row of metrics.jsonl.

In: timers, numbers under their metric names, reports of optimizer steps, the batch of graded groups, spans of actors.
Out: one flat row of finite numbers, and the spans. It writes sample completions as they come; when and whether the row
is written is the journal's part.
"""

import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from learner.contract import StepReport
from orchestration.journal.balance import idle_shares
from orchestration.journal.json_lines import append_rows
from orchestration.stream.group_metrics import group_metrics
from rollout.contract import GradedGroup
from transfer.spans import Span, SpanLog

METRIC_NAME = re.compile(r"[a-z0-9_-]+(/[a-z0-9_@-]+)*")
MAXIMUM_SUFFIXES = ("/max", "/peak_bytes")  # the largest step counts, not the mean over steps
MINIMUM_SUFFIX = "/min"


class JournalError(RuntimeError):
    """A metric is not a finite number, or the files to resume from do not fit; the message names it."""


class IterationEntry:
    """Collects one iteration; `Journal.iteration` writes it down when the block ends well.

    Where a name is recorded more than once the last value holds; times of one name add up.
    """

    def __init__(self, iteration: int, *, rollouts_path: Path, rollouts_limit: int, log: SpanLog) -> None:
        """log: of the driver."""
        self._iteration = iteration
        self._log = log
        self._started_s = self._last_stage_end_s = log.now()
        self.spans: list[Span] = []  # of actors
        self._rollouts_path = rollouts_path
        self._rollouts_left = rollouts_limit
        self._metrics: dict[str, float] = {}
        self._times: dict[str, float] = {}
        self._steps: list[StepReport] = []
        self._num_samples = 0
        self._num_tokens = 0
        self._start = time.perf_counter()

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the seconds spent in the block to time/<name>_s, and a span to the driver's."""
        start = time.perf_counter()
        with self.span(name):
            yield
        key = f"time/{name}_s"
        self._times[key] = self._times.get(key, 0.0) + time.perf_counter() - start

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Adds a span to the driver's: for a stage that tells its time by itself."""
        try:
            with self._log.span(name):
                yield
        finally:
            self._last_stage_end_s = self._log.now()

    def record_spans(self, spans: Iterable[Span]) -> None:
        """What actors did since the last iteration; when the last stage has ended, they must cover it."""
        self.spans.extend(spans)

    def record(self, metrics: Mapping[str, float]) -> None:
        """Numbers under their names of metrics.jsonl. Raises JournalError for one that is not finite."""
        self._metrics.update(checked(metrics, where=f"iteration {self._iteration}"))

    def record_step(self, report: StepReport) -> None:
        """One optimizer step; `summarize_steps` says how the steps of an iteration become one row."""
        numbers = {**report.metrics, "grad_norm": report.grad_norm, "lr": report.lr}
        checked(numbers, where=f"iteration {self._iteration}, step {len(self._steps) + 1}")
        self._steps.append(report)

    def rollouts(self, groups: Sequence[GradedGroup], *, policy_version: int) -> None:
        """The iteration's batch, consumed by the learner at policy_version.

        Records policy_version and group_metrics(groups), counts samples and tokens for throughput/*, and writes the
        first groups in full text to rollouts.jsonl at once, so that they are there to read if the iteration fails.
        """
        self.record({"policy_version": policy_version, **group_metrics(groups, policy_version=policy_version)})
        self._num_samples += sum(len(item.group.completions) for item in groups)
        self._num_tokens += sum(each.tokens.num_sampled for item in groups for each in item.group.completions)
        written = groups[: self._rollouts_left]
        self._rollouts_left -= len(written)
        rows = [_rollout_row(item, self._iteration, policy_version) for item in written]
        append_rows(self._rollouts_path, rows)

    def row(self) -> dict[str, float]:
        """The finished row: iteration first, then by name."""
        elapsed_s = time.perf_counter() - self._start
        # Not up to now: what actors did since they told of themselves, at the end of the last stage, is not known yet.
        idle = idle_shares(self.spans, start_s=self._started_s, end_s=self._last_stage_end_s)
        metrics = {**summarize_steps(self._steps), **idle, "time/iteration_s": elapsed_s, **self._times}
        if self._num_samples:
            metrics["throughput/samples_per_s"] = self._num_samples / elapsed_s
            metrics["throughput/tokens_per_s"] = self._num_tokens / elapsed_s
        if self._steps and self._times.get("time/update_s"):
            num_trained = sum(report.num_tokens for report in self._steps)
            metrics["learner/tokens_per_s"] = num_trained / self._times["time/update_s"]
        if "engine/paused_s" in self._metrics:
            metrics["engine/paused_share"] = self._metrics["engine/paused_s"] / elapsed_s
        metrics.update(self._metrics)
        return {"iteration": self._iteration, **dict(sorted(metrics.items()))}


def summarize_steps(reports: Sequence[StepReport]) -> dict[str, float]:
    """The steps of one iteration as one row; empty without steps.

    The mean weighted by completion tokens over the steps that have the metric, the maximum for names ending in
    MAXIMUM_SUFFIXES, the minimum for /min, the plain mean of grad_norm, the last lr.
    """
    if not reports:
        return {}
    row: dict[str, float] = {}
    for name in sorted({name for report in reports for name in report.metrics}):
        having = [report for report in reports if name in report.metrics]
        if name.endswith(MAXIMUM_SUFFIXES):
            row[name] = max(report.metrics[name] for report in having)
        elif name.endswith(MINIMUM_SUFFIX):
            row[name] = min(report.metrics[name] for report in having)
        else:
            weights = [report.num_tokens for report in having]
            if not any(weights):  # steps whose completions were all masked: the gate's temperatures are still there
                weights = [1] * len(having)
            weighted = sum(weight * report.metrics[name] for weight, report in zip(weights, having, strict=True))
            row[name] = weighted / sum(weights)
    row["grad_norm"] = sum(report.grad_norm for report in reports) / len(reports)
    row["lr"] = reports[-1].lr
    return row


def checked(metrics: Mapping[str, float], *, where: str) -> dict[str, float]:
    """The metrics as plain int and float.

    Raises JournalError naming the first that is not finite or whose name is malformed.
    """
    plain: dict[str, float] = {}
    for name, value in metrics.items():
        if not METRIC_NAME.fullmatch(name):
            raise JournalError(f"{where}: metric name {name!r} is malformed; write group/name_unit in lower case")
        number = value if type(value) is int else float(value)
        if not math.isfinite(number):
            raise JournalError(f"{where}: {name} is {number}, not a finite number")
        plain[name] = number
    return plain


def _rollout_row(item: GradedGroup, iteration: int, policy_version: int) -> dict[str, Any]:
    """One group in full text, with rewards, as rollouts.jsonl keeps it."""
    prompt = item.group.prompt
    return {
        "iteration": iteration,
        "policy_version": policy_version,
        "position": prompt.position,
        "prompt": prompt.text,
        "reference_answer": prompt.reference_answer,
        "source": prompt.source,
        "engine_index": item.group.engine_index,
        "generate_s": item.group.generate_s,
        "completions": [
            {
                "text": completion.text,
                "reward": verdict.total,
                "rewards": verdict.values,
                "num_tokens": completion.tokens.num_sampled,
                "finished": completion.finished,
                "min_policy_version": completion.tokens.min_policy_version,
                "max_policy_version": completion.tokens.max_policy_version,
            }
            for completion, verdict in zip(item.group.completions, item.verdicts, strict=True)
        ],
    }
