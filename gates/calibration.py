"""Calibration of temperatures that makes gates of different families comparable (`python -m gates.calibration`).

In: shapes and taus, for equal EUR also recorded ratios. Out: taus of equal half-width (the slope is 1/2 at the same
ratio) or of equal EUR (paper eq. 12). Knows nothing of runs: the caller brings recorded ratios.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from gates.checks import check_real
from gates.gate import GATES, Gate, SoftGate, get_gate
from gates.power import power_shape
from gates.shapes import SHAPES, GateShape

LOWEST_TAU, HIGHEST_TAU = 1e-4, 1e6  # range in which match_eur searches
PRECISION = 1e-12  # relative precision of a tau found by bisection


def matched_tau(shape: GateShape | str, *, like: GateShape | str, tau: float) -> float:
    """The tau at which shape has the same half-width as like at tau: the slope is 1/2 at the same ratio.

    Shapes are names or objects. Raises ValueError for clip, whose slope is never 1/2, for power without its p, and
    unless tau is finite and > 0.
    """
    check_real("tau", tau, above=0.0)
    return tau * shape_of(shape).half_width / shape_of(like).half_width


def match_half_width(gate: Gate, *, like: GateShape | str) -> SoftGate:
    """The gate with the half-width, for both signs, that like has at the gate's taus.

    Raises ValueError for a gate without tau, such as clip.
    """
    if not isinstance(gate, SoftGate):
        raise ValueError(f"gate={gate.name!r}: has no tau to match, must be a built-in soft gate")
    return SoftGate(
        shape=gate.shape,
        tau_pos=matched_tau(gate.shape, like=like, tau=gate.tau_pos),
        tau_neg=matched_tau(gate.shape, like=like, tau=gate.tau_neg),
    )


def match_eur(shape: GateShape | str, *, reference: Gate, ratios: Tensor, positive: Tensor) -> tuple[float, float]:
    """(tau_pos, tau_neg) at which shape has the same mean slope over the tokens of a sign as the reference gate.

    ratios: float [T], recorded in training; positive: bool [T], advantage > 0. The mean is over tokens; eq. 12 would
    weigh groups of different length alike. Raises ValueError if a sign has no tokens, if all its ratios are 1 (every
    tau gives 1), or if no tau between LOWEST_TAU and HIGHEST_TAU gives that mean (none gives 1).
    """
    if ratios.ndim != 1 or ratios.shape != positive.shape or positive.dtype != torch.bool:
        raise ValueError(
            f"ratios {list(ratios.shape)}, positive {positive.dtype} {list(positive.shape)}: must be a float and a "
            "bool tensor of one length"
        )
    ratios = ratios.double()
    if not ratios.isfinite().all() or (ratios < 0.0).any():
        raise ValueError("ratios: must be finite and >= 0")
    return (
        _eur_tau(shape_of(shape), reference, ratios[positive], sign=True),
        _eur_tau(shape_of(shape), reference, ratios[~positive], sign=False),
    )


def shape_of(shape: GateShape | str) -> GateShape:
    """The shape itself, or the shape of that name. Raises ValueError for a name that does not determine a shape."""
    if isinstance(shape, GateShape):
        return shape
    if shape in SHAPES:
        return SHAPES[shape]
    reasons = {"clip": "its slope is never 1/2 and it has no tau", "power": "a name without p, use power_shape(p)"}
    raise ValueError(f"gate={shape!r}: {reasons.get(shape, 'unknown gate')}, allowed are {', '.join(SHAPES)}")


def mean_slope(gate: Gate, ratios: Tensor, positive: Tensor) -> float:
    """EUR (eq. 12) over tokens; ratios float [T], positive bool [T]."""
    return gate.slope(ratios, positive).mean().item()


def _eur_tau(shape: GateShape, reference: Gate, ratios: Tensor, *, sign: bool) -> float:
    """The tau of equal mean slope for the ratios of one sign, by bisection on log tau; the mean falls as tau grows."""
    field, meant = ("tau_pos", "> 0") if sign else ("tau_neg", "<= 0")
    if len(ratios) == 0:
        raise ValueError(f"{field}: no token has advantage {meant}, must have some")
    positive = torch.full_like(ratios, sign, dtype=torch.bool)

    def eur(tau: float) -> float:
        return mean_slope(SoftGate(shape=shape, tau_pos=tau, tau_neg=tau), ratios, positive)

    wanted = mean_slope(reference, ratios, positive)
    low, high = LOWEST_TAU, HIGHEST_TAU
    most, least = eur(low), eur(high)
    if (ratios == 1.0).all():
        raise ValueError(f"{field}: all ratios are 1, where every tau gives EUR 1; must have some away from 1")
    if not least < wanted < most:
        raise ValueError(
            f"{field}: gate {reference.name} has EUR {wanted:.6g} there, must lie between the {least:.6g} and "
            f"{most:.6g} that {shape.name} has at tau {high:g} and {low:g}"
        )
    while high / low > 1.0 + PRECISION:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if eur(middle) > wanted else (low, middle)
    return math.sqrt(low * high)


def half_width_table(shapes: dict[str, GateShape], *, like: str, tau_pos: float, tau_neg: float) -> Table:
    """Table with one row a shape: the taus of the half-width that like has at tau_pos and tau_neg."""
    widths = [shape_of(like).half_width / tau for tau in (tau_pos, tau_neg)]
    title = f"Half-width of {like} at tau_pos={tau_pos:g}, tau_neg={tau_neg:g}; r: ratio"
    table = _table(title, "half-width, tau |r - 1|")
    table.caption = f"slope 1/2 at ratio 1 ± {widths[0]:.4g} (A > 0), 1 ± {widths[1]:.4g} (A <= 0)"
    for label, shape in shapes.items():
        taus = [matched_tau(shape, like=like, tau=tau) for tau in (tau_pos, tau_neg)]
        table.add_row(label, f"{shape.half_width:.6f}", *(f"{tau:.6g}" for tau in taus))
    return table


def eur_table(shapes: dict[str, GateShape], *, reference: Gate, ratios: Tensor, positive: Tensor) -> Table:
    """Table with one row a shape: the taus of the EUR that the reference gate has on the recorded ratios."""
    eurs = [mean_slope(reference, ratios[of_sign], positive[of_sign]) for of_sign in (positive, ~positive)]
    title = f"EUR of {reference.name} on {len(ratios):,} tokens: {eurs[0]:.4f} (A > 0), {eurs[1]:.4f} (A <= 0)"
    table = _table(title)
    for label, shape in shapes.items():
        taus = match_eur(shape, reference=reference, ratios=ratios, positive=positive)
        table.add_row(label, *(f"{tau:.6g}" for tau in taus))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table("gate", title=title)
    for column in (*columns, "tau_pos, 1/r", "tau_neg, 1/r"):
        table.add_column(column, justify="right")
    return table


def load_ratios(path: Path) -> tuple[Tensor, Tensor]:
    """(ratios float64 [T], positive bool [T]) from a file of [2, T] ratios and advantages, or [T] ratios for both.

    Raises ValueError for another shape, OSError if the file cannot be read.
    """
    recorded = torch.from_numpy(np.asarray(np.load(path), dtype=np.float64))
    if recorded.ndim == 1:
        return recorded.repeat(2), torch.arange(2 * len(recorded)) < len(recorded)
    if recorded.ndim != 2 or len(recorded) != 2:
        raise ValueError(f"{path}: array {list(recorded.shape)}, must be [T] ratios or [2, T] ratios and advantages")
    return recorded[0], recorded[1] > 0.0


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: prints a table of taus of equal half-width and, if ratios are given, one of equal EUR."""
    parser = argparse.ArgumentParser(
        prog="python -m gates.calibration", description="Taus that make the soft gates comparable."
    )
    names = [name for name in GATES if name != "power"]
    parser.add_argument("--like", default="softsign", choices=names, help="the gate to match (softsign)")
    parser.add_argument("--tau-pos", type=float, default=10.0, help="tau of --like where the advantage is > 0 (10)")
    parser.add_argument("--tau-neg", type=float, default=12.0, help="tau of --like where the advantage is <= 0 (12)")
    parser.add_argument("--epsilon", type=float, default=0.2, help="both bounds of --like clip (0.2)")
    parser.add_argument("--p", type=float, nargs="+", default=[2.0], help="members of the power family to list (2)")
    parser.add_argument(
        "--ratios",
        type=Path,
        metavar="FILE.npy",
        help="file of recorded ratios [T], or ratios and advantages [2, T], to match EUR",
    )
    options = parser.parse_args(arguments)
    try:
        shapes = SHAPES | {f"power p={p:g}": power_shape(p) for p in options.p}
        taus = {"tau_pos": options.tau_pos, "tau_neg": options.tau_neg}
        is_clip = options.like == "clip"
        bounds = {"epsilon_low": options.epsilon, "epsilon_high": options.epsilon}
        reference = get_gate(options.like, **(bounds if is_clip else taus))
        tables = []
        # clip has no half-width, which is a mistake alone; with ratios it has an EUR
        if not (is_clip and options.ratios):
            tables.append(half_width_table(shapes, like=options.like, **taus))
        if options.ratios:
            ratios, positive = load_ratios(options.ratios)
            tables.append(eur_table(shapes, reference=reference, ratios=ratios, positive=positive))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    for table in tables:
        Console().print(table)


if __name__ == "__main__":
    main()
