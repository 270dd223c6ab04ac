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
    hidden: Tensor, targets: Tensor, head: Head, *, temperature: float, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """(logprobs, entropy), both [K] float32, of softmax(head(hidden) / temperature); entropy in nats and detached.

    hidden is [K, H], targets [K] integers. head runs on chunk_size positions at a time; with more than one chunk a
    backward pass computes each chunk's logits again instead of keeping them. Raises ValueError for a temperature <= 0
    or a chunk_size < 1.
    """
    if temperature <= 0.0:
        raise ValueError(f"temperature={temperature}: must be > 0")
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size}: must be at least 1 position")
    if len(hidden) <= chunk_size:
        return _chunk_logprobs(hidden, targets, head, temperature)
    chunks = [
        _chunk(hidden_chunk, target_chunk, head, temperature)
        for hidden_chunk, target_chunk in zip(hidden.split(chunk_size), targets.split(chunk_size), strict=True)
    ]
    logprobs, entropies = zip(*chunks, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def _chunk(hidden: Tensor, targets: Tensor, head: Head, temperature: float) -> tuple[Tensor, Tensor]:
    if not torch.is_grad_enabled():
        return _chunk_logprobs(hidden, targets, head, temperature)
    pair: tuple[Tensor, Tensor] = checkpoint(
        _chunk_logprobs, hidden, targets, head, temperature, use_reentrant=False, preserve_rng_state=False
    )
    return pair


def _chunk_logprobs(hidden: Tensor, targets: Tensor, head: Head, temperature: float) -> tuple[Tensor, Tensor]:
    log_softmax = torch.log_softmax(head(hidden).float() / temperature, dim=-1)
    logprobs = log_softmax.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    with torch.no_grad():
        # entr(p) = -p log p is 0 at p = 0, where the product of exp and log would be nan
        entropy = torch.special.entr(log_softmax.exp()).sum(dim=-1)
    return logprobs, entropy
