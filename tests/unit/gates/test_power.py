"""The power family against float64 quadrature, and against arctan and softsign, its members p = 1 and p = 3/2."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from gates import get_gate
from gates.power import LARGEST_P, power_integral, power_shape
from gates.shapes import SHAPES

EXPONENTS = (0.5 + 1e-9, 0.51, 0.6, 1.0, 1.2, 1.5, 2.0, 2.5, 3.7, 5.0, 20.25, 50.0)
ARGUMENTS = (1e-9, 1e-3, 0.1, 0.5, 0.999, 1.0, 1.001, 1.5, 3.0, 10.0, 1e3, 1e6, 5e10)
FARTHEST = math.exp(20.0)


def integral_by_quadrature(y: float, p: float) -> float:
    """The integral of (1 + s^2)^-p from 0 to y > 0, computed as that of cosh(u)^(1 - 2 p) with s = sinh u."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    end = math.asinh(y)
    edges = np.linspace(0.0, end, max(2, math.ceil(end / 0.05) + 1))
    half = np.diff(edges) / 2
    u = (edges[:-1] + half)[:, None] + half[:, None] * nodes
    return float((np.cosh(u) ** (1 - 2 * p) * weights * half[:, None]).sum())


@pytest.mark.parametrize("p", EXPONENTS)
def test_integral_equals_quadrature(p: float) -> None:
    y = torch.tensor(ARGUMENTS, dtype=torch.float64)
    integral = power_integral(y, p)
    expected = [integral_by_quadrature(argument, p) for argument in ARGUMENTS]
    np.testing.assert_allclose(integral.numpy(), expected, rtol=1e-13)
    assert torch.equal(power_integral(-y, p), -integral)
    assert power_integral(torch.zeros(1, dtype=torch.float64), p).item() == 0.0


@pytest.mark.parametrize("p", [p for p in EXPONENTS if p > 0.6])
def test_integral_ends_at_its_closed_form(p: float) -> None:
    whole = math.sqrt(math.pi) / 2 * math.exp(math.lgamma(p - 0.5) - math.lgamma(p))
    assert power_integral(torch.tensor([1e150], dtype=torch.float64), p).item() == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(("name", "p"), [("arctan", 1.0), ("softsign", 1.5)])
@pytest.mark.parametrize("tau", [0.1, 1.0, 10.0, 100.0])
def test_arctan_and_softsign_are_members(name: str, p: float, tau: float) -> None:
    ratio = torch.cat(
        [torch.linspace(0, 3, 1001, dtype=torch.float64), torch.logspace(-8, 9, 200, dtype=torch.float64)]
    )
    member, known = power_shape(p), SHAPES[name]
    tau_tensor = torch.full_like(ratio, tau)
    for computed, reference in ((member.value, known.value), (member.slope, known.slope)):
        torch.testing.assert_close(computed(ratio, tau_tensor), reference(ratio, tau_tensor), rtol=1e-12, atol=1e-12)
    assert member.half_width == pytest.approx(known.half_width, rel=1e-15)


@pytest.mark.parametrize("p", [1.0 + 1e-9, 1.5 - 1e-9, 1.5 + 1e-9, 2.5 - 1e-9])
def test_value_does_not_jump_where_the_formula_changes(p: float) -> None:
    y = torch.tensor(ARGUMENTS, dtype=torch.float64)
    np.testing.assert_allclose(power_integral(y, p), power_integral(y, round(2 * p) / 2), rtol=2e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tau", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("p", EXPONENTS)
def test_finite_and_through_one_up_to_the_farthest_ratio(p: float, tau: float, dtype: torch.dtype) -> None:
    gate = get_gate("power", tau_pos=tau, tau_neg=tau, p=p)
    ratio = torch.tensor([0.0, 1e-9, 0.5, 1.0, 1.5, 1e3, FARTHEST], dtype=dtype, requires_grad=True)
    value = gate.value(ratio, torch.ones(7, dtype=torch.bool))
    value.sum().backward()
    assert value.isfinite().all()
    assert value[3].item() == 1.0
    assert (value.diff() >= -1e-14 * value[1:].abs()).all()  # where value is saturated, its last digits are rounding
    assert ratio.grad is not None
    assert ratio.grad.isfinite().all()


def test_members_compare_by_p_and_travel_by_pickle() -> None:
    assert power_shape(2.0) == power_shape(2.0) != power_shape(2.5)
    gate = get_gate("power", tau_pos=10.0, tau_neg=12.0, p=2.0)
    travelled = pickle.loads(pickle.dumps(gate))  # noqa: S301  our own bytes
    assert travelled == gate
    assert replace(travelled, tau_pos=5.0) == get_gate("power", tau_pos=5.0, tau_neg=12.0, p=2.0)


@pytest.mark.parametrize("p", [0.5, 0.0, -1.0, math.nan, math.inf, LARGEST_P + 1, True, "two"])
def test_exponent_out_of_range_is_named_in_one_line(p: float) -> None:
    with pytest.raises(ValueError, match=r"^p=.*: must be a number in \(0.5, 50\]$") as caught:
        get_gate("power", tau_pos=10.0, tau_neg=12.0, p=p)
    assert "\n" not in str(caught.value)
