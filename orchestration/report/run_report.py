"""Writes report.html of one run: results, curves, settings and some completions.

In: a run's folder. Out: one HTML file in it. Reports an interrupted run too, up to its last iteration.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from configs.files import write_atomically
from configs.gates import CustomGateConfig
from configs.loading import dump_yaml
from orchestration.journal.curves import curve_panels
from orchestration.journal.run_files import TRACE_FILE
from orchestration.journal.run_record import LAST, RunRecord, SampleGroup, read_run
from orchestration.journal.trace import read_spans
from orchestration.pages.figures import panel_svg
from orchestration.pages.page import (
    MISSING,
    Block,
    Figure,
    Figures,
    Folded,
    Heading,
    Notice,
    Paragraph,
    Table,
    Verbatim,
    html_page,
)
from orchestration.report.gantt import NUM_ITERATIONS, gantt_svg

REPORT_FILE = "report.html"
INTERVAL_ENDS = ("_low", "_high")
TEXT_LIMIT = 4000  # characters of a completion that are shown
# Metric, what it is and its unit, decimals; after those of the rewards.
FINAL = (
    ("completion/length_mean", "completion length, tokens", 1),
    ("completion/truncated_share", "truncated completions, share", 3),
    ("policy/entropy", "policy entropy, nats per token", 4),
    ("gate/eur", "EUR, share", 3),
    ("ratio/variance", "variance of the ratio", 5),
    ("ratio/max", "largest ratio", 2),
    ("grad_norm", "gradient norm", 3),
    ("throughput/samples_per_s", "throughput, completions/s", 1),
    ("time/iteration_s", "time of an iteration, s", 2),
    ("idle/learner", "learner idle, share of an iteration", 3),
    ("idle/engines", "engines idle, share of an iteration", 3),
)


def write_run_report(folder: Path) -> Path:
    """Writes the report into the folder and returns its path. Raises RecordError where the folder holds no run."""
    record = read_run(folder)
    path = folder / REPORT_FILE
    write_atomically(path, html_page(record.name, run_blocks(record)))
    return path


def run_blocks(record: RunRecord) -> list[Block]:
    """The report as blocks of page.py."""
    config = record.config
    done = f"{len(record.rows)} of {config.num_iterations} iterations"
    return [
        Heading(text=record.name, level=1),
        Paragraph(text=f"Gate {config.gate.name}, task {config.task.name}, seed {config.seed}: {done}."),
        *(Notice(text=text) for text in _notices(record)),
        Heading(text="Evaluations", level=2),
        eval_table(record.evals),
        Heading(text="Training", level=2),
        final_table(record),
        Heading(text="Curves", level=2),
        Figures(
            items=tuple(
                Figure(
                    name=panel.title.lower(),
                    svg=panel_svg(panel),
                    alt=f"{panel.title} over the iterations",
                    caption=f"{panel.title}, {panel.unit}",
                )
                for panel in curve_panels(record.rows)
            )
        ),
        *time_blocks(record),
        Heading(text="Sample completions", level=2),
        *_sample_blocks(record),
        Folded(title="Settings", blocks=(Verbatim(text=dump_yaml(config)),)),
    ]


def _notices(record: RunRecord) -> list[str]:
    """Notices for the top of the report: an inadmissible gate first, then the notices of the run's start."""
    gate = record.config.gate
    if not (isinstance(gate, CustomGateConfig) and gate.allow_inadmissible):
        return list(record.notices)
    rule = "a condition of the paper's section 4 was allowed to be broken"
    first = f"Trained with gate.allow_inadmissible=true and gate.factory={gate.factory}: {rule}."
    return [first, *record.notices]


def eval_table(evals: Mapping[int, Mapping[str, float]]) -> Table:
    """One row an evaluation, one column a metric."""
    found = dict.fromkeys(name for iteration in sorted(evals) for name in evals[iteration])
    names = [name for name in found if not name.endswith(INTERVAL_ENDS)]  # they stand beside what they bound
    rows = tuple((str(iteration), *(_metric(name, evals[iteration]) for name in names)) for iteration in sorted(evals))
    columns = ("iterations trained", *(f"{name.removeprefix('eval/')}{_unit(name)}" for name in names))
    return Table(columns=columns, rows=rows, numeric=frozenset(range(len(columns))))


def final_table(record: RunRecord) -> Table:
    """Means of the main metrics over the first and the last iterations."""
    rows = []
    rewards = [(metric, f"{name} reward, points", 3) for name, metric in record.reward_metrics().items()]
    for metric, label, digits in (("reward/mean", "reward, points", 3), *rewards, *FINAL):
        values = list(record.series(metric).values())
        if values:
            rows.append((label, f"{np.mean(values[:LAST]):.{digits}f}", f"{np.mean(values[-LAST:]):.{digits}f}"))
    columns = ("metric", f"mean of the first {LAST} iterations", f"of the last {LAST}")
    return Table(columns=columns, rows=tuple(rows), numeric=frozenset((1, 2)))


def time_blocks(record: RunRecord) -> list[Block]:
    """The chart of what each process did in the last iterations; empty where the run has no trace."""
    svg = gantt_svg(read_spans(record.folder / TRACE_FILE))
    if svg is None:
        return []
    return [
        Heading(text="Where time goes", level=2),
        Figures(
            items=(
                Figure(
                    name="gantt",
                    svg=svg,
                    alt="What driver, engines, learner ranks and graders did in the last iterations",
                    caption=f"The last {NUM_ITERATIONS} iterations, or as many as there are; dotted lines are where "
                    f"they begin. {TRACE_FILE} has the spans of all iterations, or of the newest ones of a long run; "
                    f"ui.perfetto.dev and chrome://tracing show it.",
                ),
            )
        ),
    ]


def _sample_blocks(record: RunRecord) -> list[Block]:
    if not record.samples:
        return [Paragraph(text="None recorded (journal.rollouts_per_iteration=0).")]
    return [
        Folded(
            title=f"Iteration {group.iteration + 1}: {len(group.completions)} completions of one prompt",
            blocks=(Verbatim(text=_sample_text(group)),),
        )
        for group in record.samples
    ]


def _sample_text(group: SampleGroup) -> str:
    lines = [f"prompt: {group.prompt}", f"reference answer: {group.reference_answer}"]
    for completion in group.completions:
        end = "" if completion.finished else ", truncated"
        text = completion.text
        if len(text) > TEXT_LIMIT:
            text = f"{text[:TEXT_LIMIT]} ... ({len(text)} characters in all)"
        lines.append(f"reward {completion.reward:g}, {completion.num_tokens} tokens{end}: {text}")
    return "\n".join(lines)


def _unit(name: str) -> str:
    if name.endswith("/length"):
        return ", tokens"
    return ", points" if name.endswith("/format") else ", %"


def _metric(name: str, metrics: Mapping[str, float]) -> str:
    """A metric in its unit, with its interval where it has one."""
    if name not in metrics:
        return MISSING
    if name.endswith("/length"):
        return f"{metrics[name]:.1f}"
    if name.endswith("/format"):
        return f"{metrics[name]:.3f}"
    bounds = [metrics.get(f"{name}{end}") for end in INTERVAL_ENDS]
    shown = " to ".join(f"{100 * bound:.1f}" for bound in bounds if bound is not None)
    return f"{100 * metrics[name]:.1f}" + (f" ({shown})" if shown else "")
