"""Which loss function a gate runs on: the reference, or one fused pass over the tokens that equals it.

In: a gate, a device, the user's choice. Out: a loss function. The passes themselves are chunks.py (CPU) and
triton_kernels.py (NVIDIA), which load when tensors of theirs come.
"""

from importlib.util import find_spec
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gates.chunks import Evaluation, Tokens, evaluate_in_chunks
from gates.gate import ClipGate, Gate, SoftGate
from gates.loss import GateLoss, LossFunction, reference_loss

Kernel = Literal["auto", "reference", "fused"]


def has_kernel(gate: Gate, device: torch.device) -> bool:
    """Whether fused_loss runs this gate on this device.

    On the CPU it runs every SoftGate and ClipGate; on CUDA, with triton installed, those of the built-in shapes, and of
    the power family where 2 p is an integer up to 20 (else the value is a series, summed in float64). A gate of the
    user's own has none.
    """
    if not _is_built_in(gate):
        return False
    if device.type == "cuda" and find_spec("triton") is not None:
        from gates.triton_kernels import kernel_gate

        return kernel_gate(gate) is not None
    return device.type == "cpu"


def loss_function_for(gate: Gate, *, kernel: Kernel, device: torch.device) -> LossFunction:
    """fused_loss or reference_loss; auto: fused_loss where it runs this gate on this device.

    Raises ValueError for kernel="fused" where there is none.
    """
    if kernel == "reference":
        return reference_loss
    if has_kernel(gate, device):
        return fused_loss
    if kernel == "fused":
        raise ValueError(_no_kernel(gate, device))
    return reference_loss


def fused_loss(
    *, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, loss_weights: Tensor, gate: Gate
) -> GateLoss:
    """As gates.loss.reference_loss, in one pass over the tokens and up to rounding; sums are in float64.

    Cannot be differentiated twice. On CUDA, float64 runs on the reference, as triton takes a gate's numbers as float32.
    Raises ValueError for a gate without a kernel on the tensors' device.
    """
    device = logprobs.device
    if not _is_built_in(gate) or not has_kernel(gate, device):
        raise ValueError(_no_kernel(gate, device))
    tokens = Tokens(
        logprobs=logprobs.detach(),
        old_logprobs=old_logprobs.detach(),
        advantages=advantages.detach(),
        loss_weights=loss_weights.detach(),
    )
    if device.type == "cpu":
        evaluation = evaluate_in_chunks(tokens, gate)
    elif tokens.dtype == torch.float64:
        return reference_loss(
            logprobs=logprobs,
            old_logprobs=old_logprobs,
            advantages=advantages,
            loss_weights=loss_weights,
            gate=gate,
        )
    else:
        from gates.triton_kernels import evaluate_in_blocks

        evaluation = evaluate_in_blocks(tokens, gate)
    return GateLoss(loss=_with_gradient(logprobs, evaluation), metrics=evaluation.metrics)


def _is_built_in(gate: Gate) -> TypeGuard[SoftGate | ClipGate]:
    return isinstance(gate, SoftGate | ClipGate)


def _no_kernel(gate: Gate, device: torch.device) -> str:
    return f"gate.kernel=fused: gate {gate.name} has no kernel on {device.type}; set gate.kernel=reference or auto"


class _KnownGradient(torch.autograd.Function):
    """The loss, whose derivative by logprobs is -ascent."""

    @staticmethod
    def forward(logprobs: Tensor, loss: Tensor, ascent: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        logprobs, _, ascent = inputs
        ctx.dtype = logprobs.dtype
        ctx.save_for_backward(ascent)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (ascent,) = ctx.saved_tensors
        return (ascent * -grad_outputs[0]).to(ctx.dtype), None, None


def _with_gradient(logprobs: Tensor, evaluation: Evaluation) -> Tensor:
    loss: Tensor = _KnownGradient.apply(logprobs, evaluation.loss, evaluation.ascent)
    return loss
