"""Log-probabilities of given tokens, and the entropy of their distributions, from hidden states and output embedding.

In: hidden states at the positions that predict a token, the tokens, and the output embedding. Out: float32 tensors [K].
The logits [K, V] never exist: a forward pass sums up the softmax tile by tile (some positions by some of the
vocabulary), a backward pass computes each tile again. Knows nothing of ratios, rewards or packing.
"""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from learner.model.tiles import Grid, LogitGradient, Projection, SoftmaxSums, input_gradients, softmax_sums


class OutputHead(nn.Linear):
    """A model's output embedding that answers with log-probabilities.

    It is called as a module, once for all positions: so ZeRO-3 gathers its weight once a forward and once a backward
    pass, however many positions a rank has.
    """

    @classmethod
    def of(cls, head: nn.Module) -> Self:
        """The same parameters under the same names. ValueError for a head that is not a plain linear map."""
        if type(head) is not nn.Linear:
            raise ValueError(f"output head {type(head).__name__}: must be a torch.nn.Linear; choose another model")
        made = cls(head.in_features, head.out_features, bias=head.bias is not None, device="meta")
        made.weight, made.bias = head.weight, head.bias
        return made

    def forward(  # type: ignore[override]
        self, hidden: Tensor, targets: Tensor, *, temperature: float, max_logits: int, entropy_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        return token_logprobs(
            hidden, targets, self, temperature=temperature, max_logits=max_logits, entropy_gradient=entropy_gradient
        )


def token_logprobs(
    hidden: Tensor,
    targets: Tensor,
    head: nn.Linear,
    *,
    temperature: float,
    max_logits: int,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """(logprobs, entropy), both [K] float32, of softmax(logits / temperature); entropy in nats.

    hidden is [K, H], targets [K] integers; logits are hidden @ head.weight.T + head.bias in their own dtype, widened to
    float32. The entropy is detached unless entropy_gradient asks for its gradient. At most max_logits logits exist at a
    time; where K * V of them are no more than that, autograd keeps them instead of computing them again. Raises
    ValueError for a temperature <= 0 or max_logits < 1.
    """
    if temperature <= 0.0:
        raise ValueError(f"temperature={temperature}: must be > 0")
    if max_logits < 1:
        raise ValueError(f"max_logits={max_logits}: must be at least 1")
    if len(hidden) * head.out_features <= max_logits:
        logits = functional.linear(hidden, head.weight, head.bias).float() / temperature
        return _of_all_logits(logits, targets, entropy_gradient=entropy_gradient)
    grid = Grid.within(max_logits, num_positions=len(hidden), vocabulary=head.out_features)
    return _TiledLogprobs.apply(hidden, targets, head.weight, head.bias, temperature, grid, entropy_gradient)


def _of_all_logits(logits: Tensor, targets: Tensor, *, entropy_gradient: bool) -> tuple[Tensor, Tensor]:
    log_softmax = torch.log_softmax(logits, dim=-1)
    logprobs = log_softmax.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    if entropy_gradient:
        # value and gradient are 0 where p = 0; the derivative of entr is inf there
        finite = torch.where(log_softmax > -torch.inf, log_softmax, 0.0)
        return logprobs, -(log_softmax.exp() * finite).sum(dim=-1)
    with torch.no_grad():
        # entr(p) = -p log p is 0 at p = 0, where the product of exp and log would be nan
        entropy = torch.special.entr(log_softmax.exp()).sum(dim=-1)
    return logprobs, entropy


class _TiledLogprobs(torch.autograd.Function):
    """(logprobs, entropy), of which only SoftmaxSums are kept for the backward pass, besides the inputs."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        targets: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        temperature: float,
        grid: Grid,
        entropy_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        projection = Projection(weight=weight, bias=bias, temperature=temperature)
        logprobs, sums = softmax_sums(hidden, targets, projection, grid)
        ctx.save_for_backward(hidden, targets, weight, bias, sums.maximum, sums.total, sums.entropy)
        ctx.settings = temperature, grid, entropy_gradient
        if not entropy_gradient:
            ctx.mark_non_differentiable(sums.entropy)
        return logprobs, sums.entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_logprobs: Tensor, of_entropy: Tensor) -> tuple[Tensor | None, ...]:
        hidden, targets, weight, bias, maximum, total, entropy = ctx.saved_tensors
        temperature, grid, entropy_gradient = ctx.settings
        of_logits = LogitGradient(
            targets=targets,
            sums=SoftmaxSums(maximum=maximum, total=total, entropy=entropy),
            of_logprobs=of_logprobs / temperature,
            of_entropy=of_entropy / temperature if entropy_gradient else None,
        )
        active = of_logits.active()
        of_active, of_weight, of_bias = input_gradients(
            hidden[active],
            Projection(weight=weight, bias=bias, temperature=temperature),
            grid,
            of_logits.at(active),
            of_weight=ctx.needs_input_grad[2],
            of_bias=ctx.needs_input_grad[3],
        )
        of_hidden = torch.zeros_like(hidden)
        of_hidden[active] = of_active
        return of_hidden, None, of_weight, of_bias, None, None, None
