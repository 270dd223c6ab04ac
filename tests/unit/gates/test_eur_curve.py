"""Deficits at every tau: eq. 12 written out token by token, by sign, split over ranks and chunks."""

import math

import pytest
import torch

import gates.eur_curve
from gates.eur_curve import EurCurves
from gates.shapes import SHAPES

TAUS = (0.1, 3.0, 40.0, 1000.0)
SLOPES = {
    "sigmoid": lambda y: 1.0 / math.cosh(y / 2.0) ** 2 if abs(y) < 500.0 else 0.0,
    "erf": lambda y: math.exp(-0.5 * y * y),
    "arctan": lambda y: 1.0 / (1.0 + y * y),
    "softsign": lambda y: (1.0 + y * y) ** -1.5,
}
Tokens = dict[str, torch.Tensor]


def curves_of(name: str) -> EurCurves:
    return EurCurves(shape=SHAPES[name], taus=TAUS, num_groups=4)


def make_tokens(count: int = 60) -> Tokens:
    """Random tokens, of which group 2 has none and group 3 none of positive advantage."""
    generator = torch.Generator().manual_seed(0)
    group_index = torch.tensor([0, 1, 3])[torch.randint(3, (count,), generator=generator)]
    positive = (torch.rand(count, generator=generator) < 0.4) & (group_index != 3)
    return {
        "log_ratio": torch.randn(count, generator=generator).square() * 0.1,
        "positive": positive,
        "group_index": group_index,
    }


def written_out(name: str, tokens: Tokens, tau: float, *, positive: bool) -> float:
    by_group: dict[int, list[float]] = {}
    for log_ratio, sign, group in zip(*(tensor.tolist() for tensor in tokens.values()), strict=True):
        if sign == positive:
            by_group.setdefault(group, []).append(SLOPES[name](tau * (math.exp(log_ratio) - 1.0)))
    return 1.0 - sum(sum(slopes) / len(slopes) for slopes in by_group.values()) / len(by_group)


@pytest.mark.parametrize("name", SLOPES)
def test_deficits_are_equation_12_at_each_tau(name: str) -> None:
    tokens = make_tokens()
    found = curves_of(name).deficits(curves_of(name).sums(**tokens))
    for sign, positive in (("pos", True), ("neg", False)):
        expected = [written_out(name, tokens, tau, positive=positive) for tau in TAUS]
        assert found[sign] == pytest.approx(expected, rel=1e-9)


def test_tokens_of_ranks_and_chunks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, curves = make_tokens(), curves_of("softsign")
    whole = curves.sums(**tokens)
    first, second = (
        curves.sums(**{name: tensor[part] for name, tensor in tokens.items()}) for part in (slice(17), slice(17, None))
    )
    assert torch.allclose(first + second, whole, rtol=1e-12)
    monkeypatch.setattr(gates.eur_curve, "CHUNK", 7)
    assert torch.allclose(curves.sums(**tokens), whole, rtol=1e-12)


def test_a_rank_without_tokens_adds_nothing() -> None:
    nothing = {name: tensor[:0] for name, tensor in make_tokens().items()}
    curves = curves_of("erf")
    sums = curves.sums(**nothing)
    assert sums.shape == curves.sums(**make_tokens()).shape
    assert not sums.any()
    assert curves.deficits(sums) == {}


def test_a_sign_without_tokens_is_absent() -> None:
    tokens = make_tokens()
    tokens["positive"] = torch.zeros_like(tokens["positive"])
    curves = curves_of("erf")
    assert set(curves.deficits(curves.sums(**tokens))) == {"neg"}


def test_small_deficits_keep_their_digits() -> None:
    """float32 slopes would round 1 - 1e-10 to 1."""
    tokens = {
        "log_ratio": torch.full((3,), 1e-5),
        "positive": torch.ones(3, dtype=torch.bool),
        "group_index": torch.zeros(3, dtype=torch.int64),
    }
    found = curves_of("arctan").deficits(curves_of("arctan").sums(**tokens))
    assert found["pos"][1] == pytest.approx(9e-10, rel=1e-4)
