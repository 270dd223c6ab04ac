"""The gated objective: packed [T] tensors in, scalar loss and the gate's metrics out (arXiv 2602.19345).

Knows nothing of models, micro-batches or ranks: loss_weights were fixed over the global minibatch, so that losses and
gradients of its parts add up.
"""

from dataclasses import replace

import torch
from torch import Tensor

from gates import Gate
from gates.loss import GateLoss, LossFunction, reference_loss
from learner.loss.terms import sequence_log_ratio


def gated_objective(
    *,
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    loss_weights: Tensor,
    gate: Gate,
    loss_function: LossFunction = reference_loss,
    sequence_index: Tensor | None = None,
    correction: Tensor | None = None,
) -> GateLoss:
    """loss = - sum over tokens of loss_weight * f(ratio) * advantage, with ratio = exp(logprobs - old_logprobs).

    All tensors are [T]. A token of loss weight 0 contributes exactly 0 to loss and gradient, whatever its other entries
    hold. loss_function: gates.loss.reference_loss, or the kernel that gates.kernels.loss_function_for chose.
    sequence_index (int64, 0..T-1, whole sequences): where given, a token's ratio is its sequence's. correction: a
    detached factor of each loss weight; the metrics ignore it and cover tokens that it leaves out too. Raises
    ValueError where the shapes differ.
    """
    given = {
        "old_logprobs": old_logprobs,
        "advantages": advantages,
        "loss_weights": loss_weights,
        "sequence_index": sequence_index,
        "correction": correction,
    }
    for name, tensor in given.items():
        if tensor is not None and tensor.shape != logprobs.shape:
            raise ValueError(
                f"{name} of shape {tuple(tensor.shape)}: must have the shape of logprobs, {tuple(logprobs.shape)}"
            )
    if sequence_index is not None:
        trained = loss_weights != 0
        logprobs = sequence_log_ratio(logprobs, old_logprobs, sequence_index=sequence_index, trained=trained)
        old_logprobs = torch.zeros_like(logprobs.detach())
    columns = {"logprobs": logprobs, "old_logprobs": old_logprobs, "advantages": advantages}
    if correction is None:
        return loss_function(**columns, loss_weights=loss_weights, gate=gate)
    corrected = torch.where(loss_weights != 0, loss_weights * correction.detach(), torch.zeros_like(loss_weights))
    out = loss_function(**columns, loss_weights=corrected, gate=gate)
    with torch.no_grad():
        uncorrected = loss_function(**columns, loss_weights=loss_weights, gate=gate)
    return replace(out, metrics=uncorrected.metrics)
