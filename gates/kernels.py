"""The gated loss in one pass over the tokens, and the choice between it and the reference.

In and out: as gates.loss.reference_loss, which it equals up to rounding. The gradient is computed together with the
loss, by the formula of the slope, so that autograd keeps one tensor instead of a graph. cpu_kernels.py and
triton_kernels.py implement the pass on a device.
"""

from importlib.util import find_spec
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gates.cpu_kernels import sweep as sweep_cpu
from gates.gate import ClipGate, Gate, SoftGate
from gates.loss import GateLoss, LossFunction, reference_loss
from gates.power import PowerShape

Kernel = Literal["auto", "reference", "fused"]


def fused_loss(
    *, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, loss_weights: Tensor, gate: Gate
) -> GateLoss:
    """The gated loss, - sum over tokens of loss_weight * f(ratio) * advantage (eq. 2), in one pass.

    All tensors are [T] on one device. Computes in float32 (on a CPU in float64 if logprobs is float64) and sums in
    float64; the loss has the compute dtype. A token of loss weight 0 contributes exactly 0, whatever its other entries
    hold. Not twice differentiable. Raises ValueError if the gate has no kernel on this device.
    """
    device = logprobs.device
    if not _is_builtin(gate) or not has_kernel(gate, device):
        raise ValueError(_no_kernel(gate, device))
    dtype = torch.promote_types(logprobs.dtype, torch.float32)
    with_gradient = torch.is_grad_enabled() and logprobs.requires_grad
    if device.type == "cuda":
        from gates.triton_kernels import sweep
    else:
        sweep = sweep_cpu
    with torch.no_grad():
        loss, gradient, metrics = sweep(
            logprobs=logprobs.detach(),
            old_logprobs=old_logprobs.detach(),
            advantages=advantages.detach(),
            loss_weights=loss_weights.detach(),
            gate=gate,
            dtype=dtype,
            with_gradient=with_gradient,
        )
    loss = loss.to(dtype)
    if gradient is not None:
        loss = _KnownGradient.apply(logprobs, loss, gradient)
    return GateLoss(loss=loss, metrics=metrics)


def has_kernel(gate: Gate, device: torch.device) -> bool:
    """Whether the gate has a kernel on this device."""
    if device.type == "cpu":
        return _is_builtin(gate)
    if device.type == "cuda" and _is_builtin(gate) and find_spec("triton"):
        from gates.triton_kernels import has_formula

        return has_formula(gate)
    return False


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


def _is_builtin(gate: Gate) -> TypeGuard[SoftGate | ClipGate]:
    return isinstance(gate, SoftGate | ClipGate)


def _no_kernel(gate: Gate, device: torch.device) -> str:
    power = f" (p = {gate.shape.p:g})" if isinstance(gate, SoftGate) and isinstance(gate.shape, PowerShape) else ""
    return (
        f"gate.kernel=fused: gate {gate.name}{power} has no kernel on {device.type}; set gate.kernel=reference or "
        "gate.kernel=auto"
    )
