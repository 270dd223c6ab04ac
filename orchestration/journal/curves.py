"""The curves of a run in a PNG at its end.

In: rows of metrics.jsonl. Out: the file. It computes no metric, names only those that it draws, and needs no torch.
"""

import io
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

from configs.files import write_atomically
from orchestration.journal.json_lines import read_rows
from orchestration.journal.reward_names import reward_metrics
from orchestration.journal.run_files import METRICS_FILE
from orchestration.journal.sink import Row, Sink

CURVES_FILE = "curves.png"

# Title, unit on the y axis, then (metric, label) of each curve.
CurvePanel = tuple[str, str, tuple[tuple[str, str], ...]]

PANELS: tuple[CurvePanel, ...] = (  # after that of the rewards
    (
        "Effective update ratio (EUR)",
        "mean slope of the gate, 0 to 1",
        (("gate/eur", "all tokens"), ("gate/eur_pos", "advantage > 0"), ("gate/eur_neg", "advantage ≤ 0")),
    ),
    ("Policy entropy", "nats per completion token", (("policy/entropy", "entropy"),)),
    ("Completion length", "tokens, mean over completions", (("completion/length_mean", "length"),)),
)
# Of the first, second, ... curve of a panel; each begins anew by itself, so that twelve curves look different.
COLORS, STYLES = ("#1f4e79", "#c55a11", "#548235", "#7f6084"), ("-", "--", ":")


def curve_panels(rows: Sequence[Row]) -> tuple[CurvePanel, ...]:
    """All panels of the picture; the first has the sum and the single rewards."""
    rewards = [(metric, name) for name, metric in reward_metrics(metric for row in rows for metric in row).items()]
    return (("Reward", "points, mean over completions", (("reward/mean", "sum"), *rewards)), *PANELS)


def draw_curves(rows: Sequence[Row], path: Path, *, title: str) -> None:
    """Draws all panels over the iterations into a PNG at path."""
    # Imported here: half a second and a font cache that a run which fails at once need not pay for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 7), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axes, (name, unit, curves) in zip(figure.subplots(2, 2).flat, curve_panels(rows), strict=True):
        drawn = 0
        for (metric, label), color, style in zip(curves, cycle(COLORS), cycle(STYLES), strict=False):
            points = [(row["iteration"] + 1, row[metric]) for row in rows if metric in row]
            if points:
                axes.plot(*zip(*points, strict=True), style, color=color, label=label, linewidth=1.6)
                drawn += 1
        if drawn > 1:
            axes.legend(frameon=False, fontsize="small")
        if not drawn:
            axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", color="0.5")
        axes.set(title=name, ylabel=unit, xlabel="iteration")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    write_atomically(path, image.getvalue())


class CurvesPlot(Sink):
    """curves.png, drawn at the end of a run, also of a failed one, that has at least two iterations."""

    def __init__(self, log: Callable[[str], None], run_dir: Path, *, gate_name: str, num_iterations: int) -> None:
        self._log = log
        self._run_dir = run_dir
        self._title = f"{run_dir.name}: gate {gate_name}, {{}} of {num_iterations} iterations"

    def close(self, *, failed: bool) -> None:
        rows = read_rows(self._run_dir / METRICS_FILE)
        if len(rows) >= 2:
            path = self._run_dir / CURVES_FILE
            draw_curves(rows, path, title=self._title.format(len(rows)))
            self._log(f"curves: {path}")
