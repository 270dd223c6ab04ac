"""The curves of a run: a PNG at its end and TensorBoard scalars while it goes on.

In: rows of metrics.jsonl. Out: files. It neither computes nor names a metric beyond those it draws, and needs no torch.
"""

import time
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

from orchestration.journal.reward_names import reward_metrics

Row = Mapping[str, float]

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
    """Draw all panels over the iterations into a PNG at path, through a temporary file so that an old plot is never
    half replaced.
    """
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
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png")
    temporary.replace(path)


class TensorBoardLog:
    """Scalars of a run in the event format of TensorBoard, step = iteration."""

    def __init__(self, folder: Path, *, start_iteration: int) -> None:
        # tensorboard's own writer: torch.utils.tensorboard would pull torch into the driver.
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event = Event
        self._writer = EventFileWriter(str(folder))
        if start_iteration:  # hides what an interrupted run wrote beyond the checkpoint
            start = SessionLog(status=SessionLog.START)
            self._writer.add_event(Event(wall_time=time.time(), step=start_iteration, session_log=start))

    def write(self, step: int, metrics: Row) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
