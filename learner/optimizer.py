"""The optimizer: AdamW, its learning rate, and a step that is taken only where everything is finite.

In: the learner's configuration and the policy's parameters; at the end of a step this rank's sums and loss, then the
engine with its gradients. Out: a torch AdamW, which DeepSpeed wraps; the sums of all ranks and the gradient norm, or a
NonFiniteError on every rank. Knows nothing of batches, gates or objectives.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from learner.lr_schedule import lr_at
from learner.spec import LearnerSpec

if TYPE_CHECKING:  # seconds that building an optimizer need not wait for
    from deepspeed import DeepSpeedEngine


def set_lr(optimizer: torch.optim.Optimizer, spec: LearnerSpec, *, step: int) -> float:
    """Gives the optimizer the learning rate of step `step` of the run, and returns it."""
    learner = spec.learner
    lr = lr_at(step, total_steps=spec.total_steps, lr=learner.lr, schedule=learner.lr_schedule)
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


def adamw_groups(parameters: Iterable[nn.Parameter], *, weight_decay: float) -> list[dict]:
    """Parameter groups of AdamW: matrices decay, vectors (norms, biases) do not; one group where nothing decays."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if weight_decay == 0.0:
        return [{"params": trained, "weight_decay": 0.0}]
    matrices = [parameter for parameter in trained if parameter.ndim >= 2]
    vectors = [parameter for parameter in trained if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_adamw(
    parameters: Iterable[nn.Parameter], *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW over adamw_groups; set_lr gives it the learning rate of each step."""
    groups = adamw_groups(parameters, weight_decay=weight_decay)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)


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


def take_step(engine: "DeepSpeedEngine", *, zero_stage: int, where: str) -> float:
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
