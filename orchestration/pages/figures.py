"""Pictures of a report: curves over iterations with bands over seeds, and means with intervals.

In: numbers with their labels and units. Out: SVG bytes, or a PNG file; the same numbers give the same bytes. Knows
nothing of run folders or statistics.
"""

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from configs.files import write_atomically

if TYPE_CHECKING:  # imports scipy, which only a study needs
    from orchestration.statistics.seeds import SeedMean

# Okabe and Ito's palette, which colour-blind readers can tell apart; a gate has the same colour everywhere.
COLORS = {
    "sigmoid": "#0072B2",
    "erf": "#009E73",
    "arctan": "#D55E00",
    "softsign": "#CC79A7",
    "power": "#56B4E9",
    "clip": "#000000",
}
OTHER_COLORS = ("#E69F00", "#56B4E9", "#8C564B", "#7F7F7F", "#B8A800")
BAND_OPACITY = 0.15
STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One curve; low and high bound its band and equal the curve where it has no band."""

    name: str  # name in the legend, which decides the colour
    style: int  # index into STYLES, which begin again after the last
    x: np.ndarray  # [N]
    y: np.ndarray  # [N]
    low: np.ndarray  # [N]
    high: np.ndarray  # [N]


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One plot over iterations."""

    title: str
    unit: str
    log: bool
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dots:
    """One row of a plot of means: a mean with its interval, and the single values."""

    name: str
    mean: "SeedMean"
    values: tuple[float, ...]


def panel_svg(panel: Panel) -> bytes:
    figure = new_figure(width=5.2, height=3.3)
    _draw_panel(figure.subplots(), panel, legend=True)
    return svg_of(figure)


def dots_svg(title: str, unit: str, rows: Sequence[Dots]) -> bytes:
    """A plot of means with their intervals, one row a name."""
    figure = new_figure(width=5.2, height=1.2 + 0.36 * len(rows))
    axes = figure.subplots()
    for place, row in enumerate(rows):
        color = color_of(row.name)
        if row.mean.low is not None and row.mean.high is not None:
            axes.plot([row.mean.low, row.mean.high], [place, place], color=color, linewidth=2.0)
        axes.plot(row.values, [place] * len(row.values), "o", color=color, markersize=3.5, alpha=0.5)
        axes.plot([row.mean.mean], [place], "D", color=color, markersize=6)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    axes.set(title=title, xlabel=unit)
    axes.grid(alpha=0.25, axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    return svg_of(figure)


def save_panels(
    panels: Sequence[Panel], path: Path, *, title: str, columns: int = 3, shares_legend: bool = True
) -> None:
    """Draws all panels into one PNG at path; shares_legend: whether one legend below them is for all."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(width=4.0 * columns, height=3.2 * rows)
    figure.suptitle(title)
    places = figure.subplots(rows, columns, squeeze=False).flat
    for panel, axes in zip(panels, places, strict=False):
        _draw_panel(axes, panel, legend=not shares_legend)
    for axes in places:
        axes.set_visible(False)
    if shares_legend:
        entries = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes]
        named = {label: handle for of_axes in entries for handle, label in of_axes}
        figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=len(named) or 1, frameon=False)
    image = io.BytesIO()
    FigureCanvasAgg(figure).print_png(image, metadata={"Software": None})
    write_atomically(path, image.getvalue())


def color_of(name: str, *, taken: Collection[str] = ()) -> str:
    """The colour of a gate; other names share a few colours, chosen by their letters among those not taken."""
    free = [color for color in OTHER_COLORS if color not in taken] or OTHER_COLORS
    return COLORS.get(name) or free[sum(map(ord, name)) % len(free)]


def _draw_panel(axes: Axes, panel: Panel, *, legend: bool) -> None:
    colors: dict[str, str] = {}
    for line in panel.lines:
        label = "_" if line.name in colors else line.name
        color = colors.setdefault(line.name, color_of(line.name, taken=colors.values()))
        axes.plot(line.x, line.y, STYLES[line.style % len(STYLES)], color=color, label=label, linewidth=1.4)
        if not (np.array_equal(line.low, line.y) and np.array_equal(line.high, line.y)):
            axes.fill_between(line.x, line.low, line.high, color=color, alpha=BAND_OPACITY, linewidth=0)
    if not panel.lines:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", color="0.5")
    axes.set(title=panel.title, ylabel=panel.unit, xlabel="iteration")
    # A logarithmic axis has no place for zeros, such as the variance of ratios that are all 1.
    if panel.log and any((line.low > 0).any() for line in panel.lines):
        axes.set_yscale("log", nonpositive="mask")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if legend and len(panel.lines) > 1:
        axes.legend(frameon=False, fontsize="small")


def new_figure(*, width: float, height: float) -> Figure:
    """A figure for print_png() or print_svg() of a canvas; savefig() would draw it once more, for the layout."""
    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def svg_of(figure: Figure) -> bytes:
    target = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "softgate", "svg.fonttype": "path"}):  # makes ids equal from run to run
        FigureCanvasSVG(figure).print_svg(target, metadata={"Date": None, "Creator": None})
    return target.getvalue()
