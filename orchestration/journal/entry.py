"""The measurements of one iteration, collected into one row of metrics.jsonl.

In: timers, numbers under their metric names, reports of optimizer steps, the batch of graded groups, spans of actors.
Out: one flat row of finite numbers, and the spans. The batch goes to the sinks at once; the journal decides when the
row does.
"""

import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from learner.contract import StepReport
from orchestration.journal.balance import idle_shares
from orchestration.journal.sink import Sink
from orchestration.stream.group_metrics import group_metrics
from rollout.contract import GradedGroup
from transfer.spans import Span, SpanLog

METRIC_NAME = re.compile(r"[a-z0-9_-]+(/[a-z0-9_@-]+)*")
MAXIMUM_SUFFIXES = ("/max", "/peak_bytes")  # the largest step counts, not the mean over steps
MINIMUM_SUFFIX = "/min"


class JournalError(RuntimeError):
    """A metric is not a finite number, or the files of the run to resume do not fit; the message names it."""


class IterationEntry:
    """Collects one iteration. The last value recorded under a name counts; times of one name add up."""

    def __init__(self, iteration: int, *, sinks: Sequence[Sink], driver: SpanLog) -> None:
        self._iteration = iteration
        self._sinks = sinks
        self._driver = driver
        self._started_s = self._last_stage_end_s = driver.now()
        self.spans: list[Span] = []  # spans of actors
        self._metrics: dict[str, float] = {}
        self._times: dict[str, float] = {}
        self._steps: list[StepReport] = []
        self._num_samples = 0
        self._num_tokens = 0
        self._start = time.perf_counter()

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """A stage: adds the seconds spent in the block to time/<name>_s, and a span of the driver."""
        start = time.perf_counter()
        with self.span(name):
            yield
        key = f"time/{name}_s"
        self._times[key] = self._times.get(key, 0.0) + time.perf_counter() - start

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """A stage that reports its time itself: adds a span of the driver only."""
        try:
            with self._driver.span(name):
                yield
        finally:
            self._last_stage_end_s = self._driver.now()

    def record_spans(self, spans: Iterable[Span]) -> None:
        """Spans of actors since the last iteration, up to the end of the last stage at least."""
        self.spans.extend(spans)

    def record(self, metrics: Mapping[str, float]) -> None:
        """Numbers under their names in metrics.jsonl; JournalError for one that is not finite."""
        self._metrics.update(checked(metrics, where=f"iteration {self._iteration}"))

    def record_step(self, report: StepReport) -> None:
        """One optimizer step; `summarize_steps` says how the steps of an iteration become one row."""
        numbers = {**report.metrics, "grad_norm": report.grad_norm, "lr": report.lr}
        checked(numbers, where=f"iteration {self._iteration}, step {len(self._steps) + 1}")
        self._steps.append(report)

    def rollouts(self, groups: Sequence[GradedGroup], *, policy_version: int) -> None:
        """The iteration's batch, consumed by the learner at policy_version; called once.

        Records policy_version and group_metrics(groups), counts samples and tokens for throughput/*, and gives the
        groups to the sinks at once, so that some can be read if the iteration fails.
        """
        self.record({"policy_version": policy_version, **group_metrics(groups, policy_version=policy_version)})
        self._num_samples += sum(len(item.group.completions) for item in groups)
        self._num_tokens += sum(each.tokens.num_sampled for item in groups for each in item.group.completions)
        for sink in self._sinks:
            sink.write_groups(self._iteration, groups, policy_version=policy_version)

    def row(self) -> dict[str, float]:
        """The finished row: iteration first, then by name."""
        elapsed_s = time.perf_counter() - self._start
        # Not up to now: the spans of actors reach only to their last report, at the end of the last stage.
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
    """One row for the steps of one iteration; empty without steps.

    A metric is its mean over the steps that have it, weighted by completion tokens; its maximum for names ending in
    MAXIMUM_SUFFIXES and its minimum for /min. grad_norm is the plain mean, lr the last one.
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
    """The metrics as plain int and float; JournalError names the first that is not finite or has a malformed name."""
    plain: dict[str, float] = {}
    for name, value in metrics.items():
        if not METRIC_NAME.fullmatch(name):
            raise JournalError(f"{where}: metric name {name!r} is malformed; write group/name_unit in lower case")
        number = value if type(value) is int else float(value)
        if not math.isfinite(number):
            raise JournalError(f"{where}: {name} is {number}, not a finite number")
        plain[name] = number
    return plain
