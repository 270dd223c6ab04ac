"""Log-probabilities of given tokens, and the entropy of their distributions, from hidden states.

In: hidden states at the positions that predict a token, the tokens, and the head that turns hidden states into logits.
Out: float32 tensors [K]. The logits of all K positions never exist at once. Knows nothing of ratios, rewards or
packing.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]  # hidden states [k, H] -> logits [k, V]


def token_logprobs(
    hidden: Tensor,
    targets: Tensor,
    head: Head,
    *,
    temperature: float,
    chunk_size: int,
    entropy_gradient: bool = False,
) -> tuple[Tensor, Tensor]:
    """(logprobs, entropy), both [K] float32, of softmax(head(hidden) / temperature); entropy in nats.

    The entropy is detached unless entropy_gradient asks for its gradient, which takes more memory a chunk. hidden is
    [K, H], targets [K] integers. head runs on chunk_size positions at a time; with more than one chunk a backward pass
    computes each chunk's logits again instead of keeping them. Raises ValueError for a temperature <= 0 or a
    chunk_size < 1.
    """
    if temperature <= 0.0:
        raise ValueError(f"temperature={temperature}: must be > 0")
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: must be at least 1 position")
    if len(hidden) <= chunk_size:
        return _chunk_logprobs(hidden, targets, head, temperature, entropy_gradient)
    chunks = [
        _chunk(hidden_chunk, target_chunk, head, temperature, entropy_gradient)
        for hidden_chunk, target_chunk in zip(hidden.split(chunk_size), targets.split(chunk_size), strict=True)
    ]
    logprobs, entropies = zip(*chunks, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def _chunk(
    hidden: Tensor, targets: Tensor, head: Head, temperature: float, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    arguments = (hidden, targets, head, temperature, entropy_gradient)
    if not torch.is_grad_enabled():
        return _chunk_logprobs(*arguments)
    pair: tuple[Tensor, Tensor] = checkpoint(_chunk_logprobs, *arguments, use_reentrant=False, preserve_rng_state=False)
    return pair


def _chunk_logprobs(
    hidden: Tensor, targets: Tensor, head: Head, temperature: float, entropy_gradient: bool
) -> tuple[Tensor, Tensor]:
    log_softmax = torch.log_softmax(head(hidden).float() / temperature, dim=-1)
    logprobs = log_softmax.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    if entropy_gradient:
        return logprobs, _differentiable_entropy(log_softmax)
    with torch.no_grad():
        # entr(p) = -p log p is 0 at p = 0, where the product of exp and log would be nan
        entropy = torch.special.entr(log_softmax.exp()).sum(dim=-1)
    return logprobs, entropy


def _differentiable_entropy(log_softmax: Tensor) -> Tensor:
    """- sum of p log p over the last dimension; value and gradient 0 where p = 0, where entr's derivative is inf."""
    finite = torch.where(log_softmax > -torch.inf, log_softmax, 0.0)
    return -(log_softmax.exp() * finite).sum(dim=-1)
