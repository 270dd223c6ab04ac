"""The curves of a run: panels for its report, and the first of them in a PNG at its end.

In: rows of metrics.jsonl. Out: panels, or the file. It computes no metric and names only those that it draws.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from orchestration.journal.json_lines import read_rows
from orchestration.journal.run_files import METRICS_FILE, reward_metrics
from orchestration.journal.sink import Row

if TYPE_CHECKING:
    from orchestration.pages.figures import Panel

CURVES_FILE = "curves.png"
PICTURE_PANELS = 4  # number of panels in the PNG
# Title, unit, logarithmic, then (metric, name in the legend) of each curve; after the panel of the rewards.
PANELS: tuple[tuple[str, str, bool, tuple[tuple[str, str], ...]], ...] = (
    (
        "Effective update ratio (EUR)",
        "mean slope, 0 to 1",
        False,
        (("gate/eur", "all tokens"), ("gate/eur_pos", "advantage > 0"), ("gate/eur_neg", "advantage ≤ 0")),
    ),
    ("Policy entropy", "nats per completion token", False, (("policy/entropy", "entropy"),)),
    ("Completion length", "tokens", False, (("completion/length_mean", "length"),)),
    ("Variance of the ratio", "within a step, log scale", True, (("ratio/variance", "variance"),)),
    ("Gradient norm", "before clipping", False, (("grad_norm", "norm"),)),
    ("Temperature of the gate", "tau", False, (("gate/tau_pos", "tau_pos"), ("gate/tau_neg", "tau_neg"))),
    ("Throughput", "completions/s", False, (("throughput/samples_per_s", "samples"),)),
    ("Idle", "share of an iteration", False, (("idle/learner", "learner"), ("idle/engines", "engines"))),
)


def curve_panels(rows: Sequence[Row]) -> "list[Panel]":
    """All panels over the iterations; the first has the sum of the rewards and each single one."""
    # Imported here: matplotlib takes half a second and a font cache that a run which fails at once need not pay for.
    from orchestration.pages.figures import Line, Panel

    def line(metric: str, name: str, style: int) -> Line:
        x, y = np.array([(row["iteration"] + 1, row[metric]) for row in rows if metric in row]).T
        return Line(name=name, style=style, x=x, y=y, low=y, high=y)

    present = dict.fromkeys(metric for row in rows for metric in row)
    rewards = [(metric, name) for name, metric in reward_metrics(present).items()]
    return [
        Panel(
            title=title,
            unit=unit,
            log=log,
            lines=tuple(line(metric, name, style) for style, (metric, name) in enumerate(curves) if metric in present),
        )
        for title, unit, log, curves in (("Reward", "points", False, (("reward/mean", "sum"), *rewards)), *PANELS)
    ]


def draw_curves(run_dir: Path, *, gate_name: str, num_iterations: int) -> Path | None:
    """Draws curves.png of the run so far and returns its path; None where there are less than two iterations."""
    rows = read_rows(run_dir / METRICS_FILE)
    if len(rows) < 2:
        return None
    from orchestration.pages.figures import save_panels

    path = run_dir / CURVES_FILE
    title = f"{run_dir.name}: gate {gate_name}, {len(rows)} of {num_iterations} iterations"
    save_panels(curve_panels(rows)[:PICTURE_PANELS], path, title=title, columns=2, shares_legend=False)
    return path
