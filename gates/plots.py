"""`python -m gates.plots`: the pictures of docs/gates.md.

In: a folder. Out: PNG files, the same bytes with the same library versions. Curves are computed by the gates
themselves.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gates.calibration import match_half_width
from gates.gate import Gate, built_in_gates, get_gate
from gates.shapes import SHAPES

PAPER_TAUS = ((1.0, 1.05), (5.0, 5.0), (10.0, 12.0), (13.0, 15.0))  # tau_pos, tau_neg; the paper names one of (5, ...)
POWERS = (0.75, 1.0, 1.5, 2.0, 5.0)
NUM_POINTS = 1201
EPSILON = 0.2
# Okabe and Ito's palette, which colour-blind readers can distinguish; line styles distinguish curves in print.
STYLES = {
    "sigmoid": ("#0072B2", "-"),
    "erf": ("#009E73", "--"),
    "arctan": ("#D55E00", "-."),
    "softsign": ("#CC79A7", "-"),
    "power": ("#56B4E9", ":"),
    "clip": ("#000000", ":"),
}
LINEAR, LOG = (0.5, 1.5), (0.1, 10.0)  # ranges of the ratio


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """Curves of one gate over the ratio, for one sign of the advantage; all [NUM_POINTS] float64."""

    ratio: torch.Tensor
    value: torch.Tensor
    slope: torch.Tensor

    @property
    def weight(self) -> torch.Tensor:
        """Gate weight, slope * ratio: the factor of advantage * grad logprob."""
        return self.slope * self.ratio


def curves_of(gate: Gate, *, low: float, high: float, log: bool, positive: bool) -> Curves:
    """Curves of the gate at NUM_POINTS ratios from low to high, evenly spaced or, with log, in their logarithm."""
    bounds = torch.tensor([low, high], dtype=torch.float64)
    ends = bounds.log() if log else bounds
    ratio = torch.linspace(float(ends[0]), float(ends[1]), NUM_POINTS, dtype=torch.float64)
    ratio = ratio.exp() if log else ratio
    signs = torch.full_like(ratio, positive, dtype=torch.bool)
    return Curves(ratio=ratio, value=gate.value(ratio, signs), slope=gate.slope(ratio, signs))


def paper_gates(tau_pos: float, tau_neg: float) -> dict[str, Gate]:
    """The paper's soft gates at these temperatures, and the clip."""
    gates = built_in_gates(tau_pos=tau_pos, tau_neg=tau_neg)
    return {name: gate for name, gate in gates.items() if name != "power"}


def draw_all(folder: Path) -> list[Path]:
    """Draws every picture into an existing folder and returns the files, in order."""
    pictures = {
        "gates": draw_gates(10.0, 12.0),
        "slopes": draw_slopes(),
        "power": draw_powers(),
        "matched": draw_matched(),
    }
    for name, figure in pictures.items():
        # otherwise the library's version changes the bytes
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})
    return [folder / f"{name}.png" for name in pictures]


def draw_gates(tau_pos: float, tau_neg: float) -> Figure:
    """Draws f, f' and f' * ratio over linear and logarithmic ratio for A > 0, and the slope for A <= 0."""
    figure = _figure(f"Gates at tau_pos = {tau_pos:g}, tau_neg = {tau_neg:g}; clip at 1 ± {EPSILON:g}", height=7.0)
    axes = figure.subplots(2, 3)
    rows = ((LINEAR, False), (LOG, True))
    for place, ((low, high), log) in zip(axes, rows, strict=True):
        for name, gate in paper_gates(tau_pos, tau_neg).items():
            curves = curves_of(gate, low=low, high=high, log=log, positive=True)
            # f of sigmoid is 2 / tau at ratio 1, not 1; constants do not train, so all curves are drawn through 0
            shifted = curves.value - gate.value(torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.bool))
            for one, values in zip(place, (shifted, curves.slope, curves.weight), strict=True):
                _line(one, curves.ratio, values, name=name)
        for one, title in zip(place, ("value, f(r) - f(1)", "slope f'(r)", "gate weight r f'(r)"), strict=True):
            _label(one, title=f"{title}, A > 0", log=log)
        place[0].set_ylim(-0.5, 0.5)
        place[2].set_ylim(0.0, 1.4)
    axes[0, 0].legend(frameon=False, fontsize="small")
    return figure


def draw_slopes() -> Figure:
    """Draws the slopes at the paper's temperatures, with thinner lines for A <= 0."""
    figure = _figure("Slope of each gate at the paper's temperatures (thin: A ≤ 0)", height=6.0)
    for one, (tau_pos, tau_neg) in zip(figure.subplots(2, 2, sharey=True).flat, PAPER_TAUS, strict=True):
        for name, gate in paper_gates(tau_pos, tau_neg).items():
            for positive in (True, False):
                curves = curves_of(gate, low=0.0, high=2.0, log=False, positive=positive)
                _line(one, curves.ratio, curves.slope, name=name, thin=not positive)
        _label(one, title=f"tau_pos = {tau_pos:g}, tau_neg = {tau_neg:g}", log=False)
        if one.get_subplotspec().is_first_col():
            one.set_ylabel("slope f'(r)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=5)
    return figure


def draw_powers() -> Figure:
    """Draws slopes of the power family at one tau, near 1 and in the tail."""
    colors = ("#0072B2", "#D55E00", "#CC79A7", "#009E73", "#000000")
    named = {1.0: " (arctan)", 1.5: " (softsign)"}
    curves = [
        (get_gate("power", tau_pos=10.0, tau_neg=10.0, p=p), f"p = {p:g}{named.get(p, '')}", (color, "-"))
        for p, color in zip(POWERS, colors, strict=True)
    ]
    figure = _figure("Power family at tau = 10: slope (1 + τ² (r - 1)²)^-p", height=4.0)
    return _near_and_tail(figure, curves, near=LINEAR, linewidth=1.5, legend="best")


def draw_matched() -> Figure:
    """Draws all soft gates with the half-width of softsign at tau 10: equal widths, different tails."""
    curves = []
    for name in SHAPES:
        gate = match_half_width(get_gate(name, tau_pos=10.0, tau_neg=10.0), like=SHAPES["softsign"])
        curves.append((gate, f"{name}, tau = {gate.tau_pos:.4g}", STYLES[name]))
    figure = _figure("Gates of one half-width (softsign's at tau = 10)", height=4.0)
    return _near_and_tail(figure, curves, near=(0.7, 1.3), linewidth=1.6, legend="lower center")


def _near_and_tail(
    figure: Figure,
    gates: Sequence[tuple[Gate, str, tuple[str, str]]],
    *,
    near: tuple[float, float],
    linewidth: float,
    legend: str,
) -> Figure:
    """Draws slopes for A > 0 near 1 and, over r - 1, in the tail. gates: each with its label, colour and line style."""
    around, tail = figure.subplots(1, 2)
    for gate, label, (color, style) in gates:
        for axes, (low, high), log in ((around, near, False), (tail, (1.01, 100.0), True)):
            curves = curves_of(gate, low=low, high=high, log=log, positive=True)
            x = curves.ratio - 1.0 if log else curves.ratio
            axes.plot(x, curves.slope, style, color=color, linewidth=linewidth, label=label)
    _label(around, title="near 1", log=False)
    around.legend(frameon=False, fontsize="small", loc=legend)
    tail.set_title("tail, both axes logarithmic", fontsize="medium")
    tail.set(xlabel="r - 1", ylabel="slope f'(r)", xscale="log", yscale="log", ylim=(1e-8, 2.0))
    tail.spines[["top", "right"]].set_visible(False)
    return figure


def _figure(title: str, *, height: float) -> Figure:
    figure = Figure(figsize=(11.0, height), dpi=80, layout="constrained")
    figure.suptitle(title)
    return figure


def _line(axes: Axes, x: torch.Tensor, y: torch.Tensor, *, name: str, thin: bool = False) -> None:
    """Draws a curve in the gate's style; thin ones are not in the legend."""
    color, style = STYLES[name]
    axes.plot(x, y, style, color=color, linewidth=0.7 if thin else 1.6, label="_" if thin else name)


def _label(axes: Axes, *, title: str, log: bool) -> None:
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel("importance ratio r" + (" (log scale)" if log else ""))
    axes.set_xscale("log" if log else "linear")
    axes.axvline(1.0, color="0.8", linewidth=0.8, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m gates.plots", description="Draw every gate, its slope and weight.")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder (default docs/images)")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for path in draw_all(options.out):
        print(f"{path}  {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
