"""The gated objective: packed [T] tensors in, scalar loss and what the gate did out (arXiv 2602.19345).

Knows nothing of models, micro-batches or ranks: loss_weights were fixed over the global minibatch, so losses and
gradients of its parts just add up.
"""

from torch import Tensor

from gates import Gate
from gates.loss import GateLoss, LossFunction, reference_loss


def gated_objective(
    *,
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_weights: Tensor,
    gate: Gate,
    loss_function: LossFunction = reference_loss,
) -> GateLoss:
    """loss = - sum over tokens of loss_weight * f(ratio) * advantage, with ratio = exp(logprobs - old_logprobs).

    All tensors are [T]. A token of loss weight 0 contributes exactly 0 to loss and gradient, whatever its other entries
    hold. loss_function: gates.loss.reference_loss, or the kernel that gates.kernels.loss_function_for chose. Raises
    ValueError where the shapes differ.
    """
    given = {"old_logprobs": old_logprobs, "advantages": advantages, "loss_weights": loss_weights}
    for name, tensor in given.items():
        if tensor.shape != logprobs.shape:
            raise ValueError(
                f"{name} of shape {tuple(tensor.shape)}: must have the shape of logprobs, {tuple(logprobs.shape)}"
            )
    return loss_function(
        logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages, loss_weights=loss_weights, gate=gate
    )
