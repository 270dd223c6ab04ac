"""The end of an optimizer step: sums over the ranks, and a step that is taken only where everything is finite.

In: this rank's sums and loss, then the engine with its gradients. Out: the sums of all ranks, the gradient norm, or a
NonFiniteError on every rank. Knows nothing of batches, gates or objectives.
"""

import math
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from deepspeed import DeepSpeedEngine
from torch import Tensor, nn


class NonFiniteError(RuntimeError):
    """Loss or gradient norm is nan or inf; raised on every rank alike, before the optimizer has moved a weight."""


def merge_over_ranks(sums: Sequence[Tensor], maxima: Tensor, *, loss: Tensor, where: str) -> None:
    """Adds up `sums` over the ranks and takes the largest `maxima`, in place.

    NonFiniteError on all ranks where the loss of one is nan or inf. where: iteration and step, for its message.
    """
    failed_rank = torch.where(torch.isfinite(loss), -1.0, float(dist.get_rank())).double().reshape(1)
    largest = torch.cat([maxima, failed_rank])
    total = torch.cat(list(sums))
    dist.all_reduce(total, op=dist.ReduceOp.SUM)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    for part, merged in zip(sums, total.split([len(part) for part in sums]), strict=True):
        part.copy_(merged)
    maxima.copy_(largest[:-1])
    if largest[-1] >= 0:
        raise NonFiniteError(f"the loss is not finite on learner rank {int(largest[-1])} ({where}); no weight moved")


def take_step(engine: DeepSpeedEngine, *, zero_stage: int, where: str) -> float:
    """Clips the gradient and moves the weights; returns the gradient norm over all ranks before clipping.

    NonFiniteError where that norm is not finite. ZeRO's optimizers refuse such a norm by themselves; plain AdamW
    (stage 0) must be kept from it.
    """
    num_ranks = dist.get_world_size()
    failure = f"the gradient norm over {num_ranks} learner rank(s) is not finite ({where}); no weight moved"
    if zero_stage == 0:
        grad_norm = _norm_of_whole_gradients(engine.module.parameters())
        if not math.isfinite(grad_norm):
            raise NonFiniteError(failure)
        engine.step()
        return grad_norm
    engine.step()
    if not engine.was_step_applied():
        raise NonFiniteError(failure)
    return float(engine.get_global_grad_norm())


def _norm_of_whole_gradients(parameters: Iterable[nn.Parameter]) -> float:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
    return float(torch.linalg.vector_norm(torch.stack(norms)))
