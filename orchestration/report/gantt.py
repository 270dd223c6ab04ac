"""The Gantt chart of a run's last iterations: a row a process, a bar a span.

In: spans. Out: SVG bytes, or None where no iteration has ended; the same spans give the same bytes.
"""

from collections.abc import Sequence
from typing import get_args

from matplotlib.patches import Patch

from orchestration.pages.figures import new_figure, svg_of
from transfer.spans import Kind, Span

NUM_ITERATIONS = 3
ROWS_PER_KIND = 8  # rows of each kind that are drawn, the first ones of a large cluster
ITERATION = "iteration"  # name of the driver's span around all stages of an iteration
# Colours from the palette in figures.py, in the order of the legend; related spans of several processes share one.
COLORS = {
    "wait": "#D9DCE1",
    "generate": "#0072B2",
    "grade": "#56B4E9",
    "score": "#E69F00",
    "load": "#E69F00",
    "old_logprobs": "#E69F00",
    "step": "#009E73",
    "update": "#009E73",
    "send": "#CC79A7",
    "publish": "#CC79A7",
    "evaluate": "#8C564B",
    "checkpoint": "#7F7F7F",
}
OTHER_COLOR = "#B8A800"
BAR_HEIGHT = 0.8


def last_iterations(spans: Sequence[Span]) -> tuple[float, float] | None:
    """Begin and end, in unix seconds, of the last NUM_ITERATIONS among the spans; None where none has ended."""
    iterations = sorted((span.start_s, span.end_s) for span in spans if span.name == ITERATION)[-NUM_ITERATIONS:]
    return (iterations[0][0], iterations[-1][1]) if iterations else None


def gantt_svg(spans: Sequence[Span]) -> bytes | None:
    """The chart of the last NUM_ITERATIONS iterations; time in seconds from their begin."""
    window = last_iterations(spans)
    if window is None:
        return None
    begin_s, end_s = window
    shown = [span for span in spans if span.end_s >= begin_s and span.start_s <= end_s and span.index < ROWS_PER_KIND]
    kinds = get_args(Kind)
    tracks = list(dict.fromkeys(s.track for s in sorted(shown, key=lambda s: (kinds.index(s.kind), s.index))))
    figure = new_figure(width=11.0, height=1.3 + 0.32 * len(tracks))
    axes = figure.subplots()
    names = [*COLORS, *sorted({span.name for span in shown} - {*COLORS, ITERATION})]
    for name in names:
        for place, track in enumerate(tracks):
            bars = [(s.start_s - begin_s, s.end_s - s.start_s) for s in shown if (s.name, s.track) == (name, track)]
            color = COLORS.get(name, OTHER_COLOR)
            axes.broken_barh(bars, (place - BAR_HEIGHT / 2, BAR_HEIGHT), facecolor=color, linewidth=0)
    for start_s in sorted(span.start_s for span in shown if span.name == ITERATION):
        axes.axvline(start_s - begin_s, color="0.4", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(tracks)), tracks)
    axes.set_ylim(len(tracks) - 0.4, -0.6)
    axes.set_xlim(0.0, max(end_s - begin_s, 1e-6))
    axes.set_xlabel("s")
    axes.spines[["top", "right"]].set_visible(False)
    labels: dict[str, list[str]] = {}  # one entry a colour, with all span names of that colour
    for name in names:
        if any(span.name == name for span in shown):
            labels.setdefault(COLORS.get(name, OTHER_COLOR), []).append(name)
    patches = [Patch(color=color, label=", ".join(of_color)) for color, of_color in labels.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False, fontsize="small")
    return svg_of(figure)
