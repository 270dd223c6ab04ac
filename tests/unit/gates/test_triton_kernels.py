"""The triton kernel's arithmetic in triton's interpreter on the CPU, and its compilation for a GPU that is not there.

The interpreter is chosen when triton loads, so that each check is a process of its own. triton comes with vllm (through
xgrammar) on the CPU, too. What only a GPU shows is in tests/gpu.
"""

import json
import os
import subprocess
import sys

import pytest
import torch

from gates import GATES, get_gate
from gates.kernels import has_kernel

EQUALS_REFERENCE = """
import json, math
import torch
from gates import get_gate
from gates.chunks import Tokens
from gates.loss import reference_loss
from gates.triton_kernels import evaluate_in_blocks

def draw(num_tokens, spread):
    generator = torch.Generator().manual_seed(num_tokens)
    old, drift, advantages, weights = torch.randn(4, num_tokens, generator=generator)
    edges = torch.tensor([20.0, -20.0, 20.5, -20.5, 1e4, -1e4])[: num_tokens // 2]
    drift = spread * drift
    drift[: len(edges)], old[: len(edges)] = edges, 0.0
    advantages[::5] = 0.0
    weights = weights.abs() + 0.01
    weights[3::7] = 0.0
    columns = [old + drift, old, advantages, weights]
    for column in columns[:3]:
        column[3::7] = math.nan
    return dict(zip(("logprobs", "old_logprobs", "advantages", "loss_weights"), columns))

def error(ours, wanted):
    difference = (ours.double() - wanted.double()).abs() / (wanted.double().abs() + 1e-30)
    return difference.nan_to_num(nan=0.0).max().item() if len(wanted.reshape(-1)) else 0.0

report = []
for name, parameters in json.loads(GATES):
    gate = get_gate(name, **parameters)
    for num_tokens, spread in ((0, 0.3), (1, 0.3), (1023, 0.3), (2500, 6.0)):
        inputs = draw(num_tokens, spread)
        ours = evaluate_in_blocks(Tokens(**inputs), gate)
        exact = {column: values.double() for column, values in inputs.items()}
        exact["logprobs"].requires_grad_()
        wanted = reference_loss(**exact, gate=gate)
        wanted.loss.backward()
        size = (inputs["loss_weights"] * inputs["advantages"].nan_to_num()).double().abs().sum().item()
        size *= math.exp(20.0) if name == "clip" else 2.0
        report.append({
            "gate": name, "num_tokens": num_tokens,
            "gradient": error(-ours.ascent, exact["logprobs"].grad),
            "slope": error(ours.metrics.slope, wanted.metrics.slope),
            "log_ratio": error(ours.metrics.log_ratio, wanted.metrics.log_ratio),
            "totals": error(ours.metrics.totals, wanted.metrics.totals),
            "loss": (ours.loss.double() - wanted.loss.detach()).abs().item() / (size + 1e-30),
            "largest": float(not torch.isclose(ours.metrics.largest_log_ratio, wanted.metrics.largest_log_ratio)),
            "trained": float(not torch.equal(ours.metrics.trained, wanted.metrics.trained)),
        })
print(json.dumps(report))
"""

COMPILES = """
import json
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from gates import get_gate
from gates.triton_kernels import BLOCK, _evaluate_block, kernel_gate

for name, parameters in json.loads(GATES):
    known = kernel_gate(get_gate(name, **parameters))
    constants = {
        "CURVE": known.curve, "HALF_INTEGER": known.half_integer, "NUM_STEPS": known.num_steps, "TOKENS": BLOCK
    }
    kinds = {"logprobs_ptr": "*bf16", "trained_ptr": "*u8", "num_tokens": "i32"}
    kinds |= {"if_positive": "fp32", "otherwise": "fp32"} | dict.fromkeys(constants, "constexpr")
    signature = {argument: kinds.get(argument, "*fp32") for argument in _evaluate_block.arg_names}
    source = ASTSource(_evaluate_block, signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32))
    assert compiled.asm["cubin"] and "f64" not in compiled.asm["ptx"], name
print("compiled")
"""

POWERS = (1.0, 1.5, 2.0, 4.5, 10.0)


def parameters_of(name: str) -> list[dict[str, float]]:
    if name == "clip":
        return [{"epsilon_low": 0.2, "epsilon_high": 0.28}]
    taus = {"tau_pos": 10.0, "tau_neg": 12.0}
    return [taus | {"p": p} for p in POWERS] if name == "power" else [taus]


def run(program: str, *, interpreted: bool) -> str:
    gates = json.dumps([(name, parameters) for name in GATES for parameters in parameters_of(name)])
    environment = os.environ | {"TRITON_INTERPRET": "1" if interpreted else "0", "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", f"GATES = {gates!r}\n{program}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_interpreted_kernel_equals_the_reference_to_the_rounding_of_float32() -> None:
    for row in json.loads(run(EQUALS_REFERENCE, interpreted=True)):
        assert row["loss"] < 1e-6, row
        assert row["totals"] < 2e-5, row
        # erf's slope multiplies the rounding of its argument, which is up to 69 where the slope is 1e-30
        assert row["gradient"] < 1e-4, row
        assert row["slope"] < 1e-4, row
        assert row["log_ratio"] < 1e-6, row
        assert row["largest"] == row["trained"] == 0.0, row


def test_every_gate_compiles_for_cuda_without_float64() -> None:
    assert run(COMPILES, interpreted=False).strip() == "compiled"


@pytest.mark.parametrize("p", POWERS)
def test_powers_with_a_closed_form_have_a_kernel(p: float) -> None:
    assert has_kernel(get_gate("power", tau_pos=10.0, tau_neg=12.0, p=p), torch.device("cuda"))


@pytest.mark.parametrize("p", [0.75, 2.2, 10.5])
def test_other_powers_have_none(p: float) -> None:
    assert not has_kernel(get_gate("power", tau_pos=10.0, tau_neg=12.0, p=p), torch.device("cuda"))
