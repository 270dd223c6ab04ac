"""The Triton kernel without a GPU: run by Triton's interpreter against the reference, and compiled for two GPUs.

In a process of its own, because Triton decides for its interpreter when it is imported. tests/gpu/ runs it for real.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gates import Gate, get_gate
from gates.kernels import has_kernel, loss_function_for

ROOT = Path(__file__).resolve().parents[2]
CUDA = torch.device("cuda")
# The interpreter does not know libdevice, of which the kernel takes the arctangent; it sees numpy's instead.
INTERPRETED = """
import math
from types import SimpleNamespace
import numpy as np, torch, triton.language as tl
from triton.runtime.interpreter import TensorHandle
import gates.triton_kernels as kernels
from gates import get_gate
from gates.kernels import run_kernel
from gates.loss import reference_loss
from gates.power import power_shape

def atan(x):
    return tl.tensor(TensorHandle(np.arctan(x.handle.data), x.handle.dtype), x.type)

kernels.libdevice = SimpleNamespace(atan=atan)
taus = dict(tau_pos=10.1, tau_neg=12.3)
gates = [get_gate(name, **taus) for name in ("sigmoid", "erf", "arctan", "softsign")]
gates += [get_gate("power", p=p, **taus) for p in (1.0, 1.5)] + [get_gate("clip", epsilon_low=0.2, epsilon_high=0.3)]
for dtype, rtol in ((torch.float64, 1e-12), (torch.float32, 1e-4), (torch.bfloat16, 1e-4)):
    for num_tokens in (0, 1, 1500):
        generator = torch.Generator().manual_seed(num_tokens)
        columns = dict(
            logprobs=8 * torch.randn(num_tokens, generator=generator),
            old_logprobs=torch.randn(num_tokens, generator=generator),
            advantages=torch.randn(num_tokens, generator=generator),
            loss_weights=torch.rand(num_tokens, generator=generator),
        )
        columns["advantages"][::5] = 0.0
        columns["loss_weights"][::3] = 0.0
        columns["logprobs"][::9] = math.nan
        columns["advantages"][::6] = math.inf
        columns = {name: column.to(dtype) for name, column in columns.items()}
        for gate in gates:
            compute = torch.promote_types(dtype, torch.float32)
            inputs = tuple(columns.values())
            loss, gradient, found = run_kernel(kernels.sweep, inputs, gate, dtype=compute, with_gradient=True)
            leaf = columns["logprobs"].to(compute).clone().requires_grad_()
            reference = reference_loss(**columns | {"logprobs": leaf}, gate=gate)
            reference.loss.backward()
            close = dict(rtol=rtol, atol=1e-28)
            torch.testing.assert_close(gradient, leaf.grad, **close)
            torch.testing.assert_close(loss, reference.loss.detach().double(), rtol=rtol, atol=1e-12)
            expected = reference.metrics
            assert torch.equal(found.trained, expected.trained)
            assert torch.equal(found.log_ratio, expected.log_ratio)
            assert torch.equal(found.largest_log_ratio, expected.largest_log_ratio)
            torch.testing.assert_close(found.slope, expected.slope, **close)
            torch.testing.assert_close(found.totals, expected.totals, rtol=rtol, atol=1e-12)
            without = run_kernel(kernels.sweep, inputs, gate, dtype=compute, with_gradient=False)
            assert without[1] is None and torch.equal(without[0], loss)
print("all equal")
"""
COMPILED = """
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import gates.triton_kernels as kernels

names = kernels._sweep_block.arg_names
for capability, dtype in ((80, "bf16"), (90, "fp32"), (90, "fp64")):
    wide = "fp64" if dtype == "fp64" else "fp32"
    for gate in range(len(kernels.FORMULAS)):
        chosen = {"GATE": gate, "DTYPE": getattr(tl, "float" + wide[2:]), "WITH_GRADIENT": True, "BLOCK": 1024}
        types = dict.fromkeys(names, "fp32") | dict.fromkeys(chosen, "constexpr") | {"num_tokens": "i32"}
        types |= dict.fromkeys(("logprobs", "old_logprobs", "advantages", "loss_weights"), "*" + dtype)
        types |= dict.fromkeys(("log_ratios", "slopes", "gradients"), "*" + wide)
        types |= {"trained_flags": "*u8", "partials": "*fp64"}
        source = ASTSource(kernels._sweep_block, types, {(names.index(name),): value for name, value in chosen.items()})
        assert triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]
print("all compiled")
"""


def run(program: str, **environment: str) -> str:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=ROOT, timeout=580, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_interpreted_kernel_equals_the_reference() -> None:
    assert run(INTERPRETED, TRITON_INTERPRET="1").strip() == "all equal"


def test_kernel_compiles_for_ampere_and_hopper(tmp_path: Path) -> None:
    assert run(COMPILED, TRITON_CACHE_DIR=str(tmp_path)).strip() == "all compiled"


def power(p: float) -> Gate:
    return get_gate("power", tau_pos=10.0, tau_neg=12.0, p=p)


def test_only_two_powers_have_a_kernel_on_cuda() -> None:
    for name in ("sigmoid", "erf", "arctan", "softsign"):
        assert has_kernel(get_gate(name, tau_pos=10.0, tau_neg=12.0), CUDA)
    assert has_kernel(get_gate("clip", epsilon_low=0.2, epsilon_high=0.2), CUDA)
    assert [has_kernel(power(p), CUDA) for p in (0.75, 1.0, 1.5, 2.0)] == [False, True, True, False]
    with pytest.raises(ValueError, match=r"^gate.kernel=fused: gate power \(p = 2\) has no kernel on cuda; set"):
        loss_function_for(power(2.0), kernel="fused", device=CUDA)
