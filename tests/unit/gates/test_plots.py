"""Pictures of gates: the curves are the gates' own, and the files are PNGs of a size for a README."""

from pathlib import Path

import pytest
import torch

from gates import get_gate
from gates.plots import NUM_POINTS, curves_of, draw_all, paper_gates

LARGEST_BYTES = 200_000


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("positive", [False, True])
def test_curves_are_the_gates(log: bool, positive: bool) -> None:
    gate = get_gate("erf", tau_pos=3.0, tau_neg=7.0)
    curves = curves_of(gate, low=0.1, high=10.0, log=log, positive=positive)
    signs = torch.full((NUM_POINTS,), positive, dtype=torch.bool)
    assert float(curves.ratio[0]) == pytest.approx(0.1)
    assert float(curves.ratio[-1]) == pytest.approx(10.0)
    steps = (curves.ratio.log() if log else curves.ratio).diff()
    assert torch.allclose(steps, steps.mean().expand_as(steps))
    assert torch.equal(curves.slope, gate.slope(curves.ratio, signs))
    assert torch.equal(curves.value, gate.value(curves.ratio, signs))
    assert torch.equal(curves.weight, curves.slope * curves.ratio)


def test_the_clip_is_drawn_beside_the_soft_gates() -> None:
    assert list(paper_gates(10.0, 12.0)) == ["sigmoid", "erf", "arctan", "softsign", "clip"]


def test_every_picture_is_written_and_the_same_twice(tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in draw_all(tmp_path)}
    assert set(first) == {"gates.png", "slopes.png", "power.png", "matched.png"}
    for content in first.values():
        assert content.startswith(b"\x89PNG")
        assert len(content) < LARGEST_BYTES
    assert {path.name: path.read_bytes() for path in draw_all(tmp_path)} == first
