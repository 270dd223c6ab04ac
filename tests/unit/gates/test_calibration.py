"""Matched temperatures: equal half-width, equal EUR on recorded ratios, and the command that prints them."""

import math
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gates import Gate, SoftGate, get_gate
from gates.calibration import main, match_eur, match_half_width, matched_tau
from gates.power import power_shape
from gates.shapes import SHAPES, GateShape

ALL_SHAPES = (*SHAPES.values(), power_shape(0.6), power_shape(2.0), power_shape(50.0))
CLIP = get_gate("clip", epsilon_low=0.2, epsilon_high=0.2)


def recorded(num_tokens: int = 4000) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ratios = torch.exp(0.2 * torch.randn(num_tokens, generator=generator))
    return ratios, torch.rand(num_tokens, generator=generator) > 0.4


def half_ratio(gate: Gate, *, positive: bool) -> float:
    """The ratio above 1 at which the slope is 1/2, by bisection."""
    low, high = 1.0, 1e6
    for _ in range(200):
        middle = 0.5 * (low + high)
        slope = gate.slope(torch.tensor([middle], dtype=torch.float64), torch.tensor([positive])).item()
        low, high = (middle, high) if slope > 0.5 else (low, middle)
    return low


@pytest.mark.parametrize("like", SHAPES)
@pytest.mark.parametrize("shape", ALL_SHAPES, ids=attrgetter("name"))
def test_matched_gates_have_slope_one_half_at_the_same_ratio(shape: GateShape, like: str) -> None:
    gate = match_half_width(SoftGate(shape=shape, tau_pos=10.0, tau_neg=0.5), like=SHAPES[like])
    reference = get_gate(like, tau_pos=10.0, tau_neg=0.5)
    assert gate.shape == shape
    for positive in (True, False):
        assert half_ratio(gate, positive=positive) == pytest.approx(half_ratio(reference, positive=positive), rel=1e-12)


def test_known_half_widths_give_known_taus() -> None:
    assert matched_tau("arctan", like="softsign", tau=10.0) == pytest.approx(10 / math.sqrt(2 ** (2 / 3) - 1))
    assert matched_tau("sigmoid", like="arctan", tau=3.0) == pytest.approx(6 * math.acosh(math.sqrt(2)))
    assert matched_tau(power_shape(1.5), like="softsign", tau=7.0) == pytest.approx(7.0)
    assert matched_tau("erf", like="erf", tau=7.0) == pytest.approx(7.0)


@pytest.mark.parametrize(
    ("shape", "like", "tau", "message"),
    [
        ("clip", "softsign", 10.0, "gate='clip': its slope is never 1/2"),
        ("erf", "clip", 10.0, "gate='clip': its slope is never 1/2"),
        ("power", "erf", 10.0, r"gate='power': a name without p, use power_shape\(p\)"),
        ("relu", "erf", 10.0, "gate='relu': unknown gate, allowed are sigmoid, erf, arctan, softsign"),
        ("erf", "arctan", 0.0, "tau=0.0: must be a finite number > 0"),
        ("erf", "arctan", math.nan, "tau=nan: must be a finite number > 0"),
    ],
)
def test_half_width_mistakes_are_named_in_one_line(shape: str, like: str, tau: float, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        matched_tau(shape, like=like, tau=tau)
    assert "\n" not in str(caught.value)


def test_clip_has_no_half_width_to_match() -> None:
    with pytest.raises(ValueError, match="gate='clip': has no tau to match"):
        match_half_width(CLIP, like="softsign")


@pytest.mark.parametrize(
    "reference", [CLIP, get_gate("softsign", tau_pos=10.0, tau_neg=12.0)], ids=["clip", "softsign"]
)
@pytest.mark.parametrize("shape", ALL_SHAPES, ids=attrgetter("name"))
def test_equal_eur_for_either_sign(shape: GateShape, reference: Gate) -> None:
    ratios, positive = recorded()
    tau_pos, tau_neg = match_eur(shape, reference=reference, ratios=ratios, positive=positive)
    gate = SoftGate(shape=shape, tau_pos=tau_pos, tau_neg=tau_neg)
    for of_sign in (positive, ~positive):
        eur = gate.slope(ratios.double(), positive)[of_sign].mean()
        assert eur.item() == pytest.approx(reference.slope(ratios.double(), positive)[of_sign].mean().item(), rel=1e-10)


def test_a_gate_matches_itself() -> None:
    ratios, positive = recorded()
    reference = get_gate("erf", tau_pos=3.0, tau_neg=40.0)
    taus = match_eur("erf", reference=reference, ratios=ratios, positive=positive)
    assert taus == pytest.approx((3.0, 40.0), rel=1e-9)


@pytest.mark.parametrize(
    ("ratios", "positive", "message"),
    [
        ([1.1, 1.3], [True, True], "tau_neg: no token has advantage <= 0"),
        ([1.1, 0.9], [False, False], "tau_pos: no token has advantage > 0"),
        ([1.0, 0.9], [True, False], "tau_pos: all ratios are 1"),
        ([1.1, 0.9], [True, False], "tau_pos: gate clip has EUR 1 there"),
        ([3.0, 2.0], [True, True], "tau_pos: gate clip has EUR 0 there, must lie between"),
        ([math.nan, 0.9], [True, False], "ratios: must be finite and >= 0"),
        ([-1.0, 0.9], [True, False], "ratios: must be finite and >= 0"),
        ([1.1], [True, False], r"ratios \[1\], positive torch.bool \[2\]: must be a float and a bool"),
    ],
)
def test_eur_mistakes_are_named_in_one_line(ratios: list[float], positive: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        match_eur("erf", reference=CLIP, ratios=torch.tensor(ratios), positive=torch.tensor(positive))
    assert "\n" not in str(caught.value)


def test_command_prints_the_matched_taus(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    main(["--like", "arctan", "--tau-pos", "10", "--tau-neg", "12", "--p", "2", "5"])
    printed = capsys.readouterr().out
    assert "slope 1/2 at ratio 1 ± 0.1 (A > 0), 1 ± 0.08333 (A <= 0)" in printed
    rows = [line.split("│")[1:-1] for line in printed.splitlines() if line.startswith("│")]
    taus = {row[0].strip(): (float(row[2]), float(row[3])) for row in rows}
    assert list(taus) == ["sigmoid", "erf", "arctan", "softsign", "power p=2", "power p=5"]
    assert taus["arctan"] == (10.0, 12.0)
    assert taus["erf"] == pytest.approx((10 * 1.177410, 12 * 1.177410), rel=1e-5)


@pytest.mark.parametrize("rows", [1, 2])
def test_command_matches_the_eur_of_a_recording(
    rows: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    ratios, positive = recorded(500)
    path = tmp_path / "ratios.npy"
    np.save(path, ratios.numpy() if rows == 1 else np.stack([ratios.numpy(), positive.numpy() - 0.5]))
    main(["--like", "clip", "--ratios", str(path)])
    printed = capsys.readouterr().out
    assert f"EUR of clip on {1000 if rows == 1 else 500:,} tokens" in printed
    assert "Half-width" not in printed
    main(["--ratios", str(path)])
    assert "Half-width of softsign" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--like", "clip"], "gate='clip': its slope is never 1/2"),
        (["--tau-pos", "-1"], "tau_pos=-1.0: must be a finite number > 0"),
        (["--p", "0.5"], "p=0.5: must be a number in (0.5, 50]"),
        (["--ratios", "no/such/file.npy"], "No such file or directory"),
    ],
)
def test_command_names_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err
