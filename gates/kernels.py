"""The gated loss in one pass over the tokens, and the choice between it and the reference.

In and out: as gates.loss.reference_loss, which it equals up to rounding. The gradient is computed together with the
loss, by the formula of the slope, so that autograd keeps one tensor instead of a graph. cpu_kernels.py and
triton_kernels.py implement the pass on a device.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gates.cpu_kernels import Tensors
from gates.cpu_kernels import sweep as sweep_cpu
from gates.gate import BuiltInGate, Gate, SoftGate
from gates.loss import GateLoss, GateMetrics, LossFunction, reference_loss
from gates.power import PowerShape

Kernel = Literal["auto", "reference", "fused"]
# Function (inputs, outputs, gate) -> (loss, totals, largest log-ratio), all float64; see cpu_kernels.sweep.
Sweep = Callable[[Tensors, Tensors, BuiltInGate], Tensors]


def fused_loss(
    *, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, loss_weights: Tensor, gate: Gate
) -> GateLoss:
    """The gated loss, - sum over tokens of loss_weight * f(ratio) * advantage (eq. 2), in one pass.

    All tensors are [T] on one device. Computes in float32 (on a CPU in float64 if logprobs is float64) and sums in
    float64; the loss has the compute dtype. A token of loss weight 0 contributes exactly 0, whatever its other entries
    hold. Not twice differentiable. Raises ValueError if the gate has no kernel on this device.
    """
    device = logprobs.device
    if not isinstance(gate, BuiltInGate) or not has_kernel(gate, device):
        raise ValueError(_no_kernel(gate, device))
    if device.type == "cuda":
        from gates.triton_kernels import sweep
    else:
        sweep = sweep_cpu
    inputs = (logprobs, old_logprobs, advantages, loss_weights)
    dtype = torch.promote_types(logprobs.dtype, torch.float32)
    with_gradient = torch.is_grad_enabled() and logprobs.requires_grad
    loss, gradient, metrics = run_kernel(sweep, inputs, gate, dtype=dtype, with_gradient=with_gradient)
    loss = loss.to(dtype)
    if gradient is not None:
        loss = _KnownGradient.apply(logprobs, loss, gradient)
    return GateLoss(loss=loss, metrics=metrics)


@torch.no_grad()
def run_kernel(
    sweep: Sweep, inputs: Tensors, gate: BuiltInGate, *, dtype: torch.dtype, with_gradient: bool
) -> tuple[Tensor, Tensor | None, GateMetrics]:
    """One pass of a kernel: the loss in float64, its gradient by logprobs [T] in dtype if asked for, and the metrics.

    inputs: logprobs, old_logprobs, advantages and loss_weights of fused_loss.
    """
    log_ratio, slope, *gradients = (torch.empty_like(inputs[0], dtype=dtype) for _ in range(2 + with_gradient))
    trained = torch.empty_like(inputs[0], dtype=torch.bool)
    detached = tuple(column.detach() for column in inputs)
    loss, totals, largest = sweep(detached, (log_ratio, slope, trained, *gradients), gate)
    metrics = GateMetrics(trained=trained, log_ratio=log_ratio, slope=slope, totals=totals, largest_log_ratio=largest)
    return loss, gradients[0] if gradients else None, metrics


def has_kernel(gate: Gate, device: torch.device) -> bool:
    """Whether the gate has a kernel on this device."""
    if isinstance(gate, BuiltInGate) and device.type == "cuda" and find_spec("triton"):
        from gates.triton_kernels import has_formula

        return has_formula(gate)
    return isinstance(gate, BuiltInGate) and device.type == "cpu"


def loss_function_for(gate: Gate, *, kernel: Kernel, device: torch.device) -> LossFunction:
    """The loss function of a gate.kernel setting; "auto" is fused_loss if the gate has a kernel, else reference_loss.

    Raises ValueError, one line, for "fused" if the gate has no kernel on this device.
    """
    found = has_kernel(gate, device)
    if kernel == "fused" and not found:
        raise ValueError(_no_kernel(gate, device))
    return fused_loss if found and kernel != "reference" else reference_loss


class _KnownGradient(torch.autograd.Function):
    """A loss whose gradient with respect to logprobs was computed with it."""

    @staticmethod
    def forward(ctx: Any, logprobs: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dtype = logprobs.dtype
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return (grad_outputs[0] * gradient).to(ctx.dtype), None, None


def _no_kernel(gate: Gate, device: torch.device) -> str:
    power = f" (p = {gate.shape.p:g})" if isinstance(gate, SoftGate) and isinstance(gate.shape, PowerShape) else ""
    return (
        f"gate.kernel=fused: gate {gate.name}{power} has no kernel on {device.type}; set gate.kernel=reference or "
        "gate.kernel=auto"
    )
