"""The Triton kernel of the gated loss on a GPU.

The numbers it protects: gradient and slope within 1e-4, loss and totals within 1e-5 of the float64 reference path, over
a million and three tokens with ratios of 1e-4 to 1e4, a third of them masked and filled with nan; and a time of at most
0.4 of the reference path's for forward + backward at 2^22 tokens.
"""

import math
import time

import pytest
import torch
from torch import Tensor

from gates import Gate, get_gate
from gates.kernels import fused_loss, has_kernel
from gates.loss import GateLoss, LossFunction, reference_loss

DEVICE = torch.device("cuda", 0)
SOFT = ("sigmoid", "erf", "arctan", "softsign")
KINDS = (*SOFT, "power 1", "power 1.5", "clip")


def build(kind: str) -> Gate:
    name, _, p = kind.partition(" ")
    if name == "clip":
        return get_gate("clip", epsilon_low=0.2, epsilon_high=0.28)
    return get_gate(name, tau_pos=10.1, tau_neg=12.3, **({"p": float(p)} if p else {}))


def columns_of(num_tokens: int, *, largest_log_ratio: float) -> dict[str, Tensor]:
    generator = torch.Generator(DEVICE).manual_seed(0)
    uniform = torch.rand(4, num_tokens, device=DEVICE, generator=generator)
    columns = {
        "old_logprobs": -5.0 * uniform[0],
        "advantages": torch.randn(num_tokens, device=DEVICE, generator=generator),
        "loss_weights": (uniform[1] + 0.5) / max(num_tokens, 1),
    }
    columns["logprobs"] = columns["old_logprobs"] + largest_log_ratio * (2.0 * uniform[2] - 1.0)
    masked = uniform[3] < 1 / 3
    columns["loss_weights"][masked] = 0.0
    for name in ("logprobs", "old_logprobs", "advantages"):
        columns[name][masked] = math.nan
    return columns


def run(function: LossFunction, columns: dict[str, Tensor], gate: Gate, dtype: torch.dtype) -> tuple[GateLoss, Tensor]:
    given = {name: column.to(dtype) for name, column in columns.items()}
    given["logprobs"] = given["logprobs"].detach().clone().requires_grad_()
    out = function(**given, gate=gate)
    (gradient,) = torch.autograd.grad(-2.5 * out.loss, given["logprobs"])
    return out, gradient


@pytest.mark.parametrize("num_tokens", [0, 1, 7, 1_000_003])
@pytest.mark.parametrize("kind", KINDS)
def test_kernel_equals_the_float64_reference(kind: str, num_tokens: int) -> None:
    gate = build(kind)
    assert has_kernel(gate, DEVICE)
    for largest_log_ratio in (0.5, math.log(1e4), 30.0):
        columns = columns_of(num_tokens, largest_log_ratio=largest_log_ratio)
        out, gradient = run(fused_loss, columns, gate, torch.float32)
        log_ratio = out.metrics.log_ratio.double()  # the float32 difference is an input, not an error of the kernel
        same = {**columns, "logprobs": log_ratio, "old_logprobs": torch.zeros_like(log_ratio)}
        inside = columns["logprobs"].sub(columns["old_logprobs"]).abs() <= 20.0
        expected, expected_gradient = run(reference_loss, same, gate, torch.float64)
        expected_gradient = torch.where(inside, expected_gradient, 0.0)
        torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-4, atol=1e-28)
        torch.testing.assert_close(out.metrics.slope.double(), expected.metrics.slope, rtol=1e-4, atol=1e-28)
        assert torch.equal(out.metrics.trained, expected.metrics.trained)
        weighted = (columns["loss_weights"] * columns["advantages"]).double()
        values = gate.value(torch.exp(log_ratio), columns["advantages"] > 0)
        scale = float(torch.where(out.metrics.trained, weighted * values, 0.0).abs().sum())
        assert out.loss.item() == pytest.approx(expected.loss.item(), abs=1e-5 * scale)
        totals = expected.metrics.totals.tolist()
        assert out.metrics.totals.tolist() == pytest.approx(totals, rel=1e-5, abs=1e-6 * max(totals[0], totals[3]))
        assert out.metrics.largest_log_ratio.item() == expected.metrics.largest_log_ratio.item()


@pytest.mark.parametrize("kind", KINDS)
def test_kernel_computes_in_float64_where_asked(kind: str) -> None:
    columns = columns_of(5000, largest_log_ratio=1.0)
    out, gradient = run(fused_loss, columns, build(kind), torch.float64)
    expected, expected_gradient = run(reference_loss, columns, build(kind), torch.float64)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-12, atol=1e-300)
    torch.testing.assert_close(out.loss, expected.loss, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(out.metrics.totals, expected.metrics.totals, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_in_half_precision_out(kind: str) -> None:
    columns = columns_of(5000, largest_log_ratio=1.0)
    out, gradient = run(fused_loss, columns, build(kind), torch.bfloat16)
    expected, expected_gradient = run(reference_loss, columns, build(kind), torch.bfloat16)
    assert (out.loss.dtype, gradient.dtype) == (torch.float32, torch.bfloat16)
    assert out.loss.item() == pytest.approx(expected.loss.item(), abs=1e-6)
    torch.testing.assert_close(gradient, expected_gradient, rtol=8e-3, atol=1e-28)


@pytest.mark.parametrize("kind", SOFT)
def test_kernel_takes_at_most_0_4_of_the_references_time(kind: str) -> None:
    columns = columns_of(2**22, largest_log_ratio=0.5)
    best = {}
    for function in (reference_loss, fused_loss) * 10:
        torch.cuda.synchronize()
        start = time.perf_counter()
        run(function, columns, build(kind), torch.float32)
        torch.cuda.synchronize()
        best[function] = min(best.get(function, math.inf), time.perf_counter() - start)
    assert best[fused_loss] <= 0.4 * best[reference_loss]
