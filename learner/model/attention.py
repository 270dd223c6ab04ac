"""Attention over a packed row, one sequence after the other: no pair of tokens of different sequences is computed.

In: queries, keys and values of a row, and its sequences' lengths. Out: what transformers' own functions give with a
block-diagonal causal mask, which compute the whole square of the row. Knows nothing of models or of what is packed.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

BY_SEQUENCE = "by_sequence"  # its name in a model's configuration
UNSUPPORTED = ("softcap", "s_aux")  # what some models change about the softmax


def attend_by_sequence(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    sequence_lengths: Sequence[int] | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Causal attention [1, T, heads, D] of a row; query [1, heads, T, D], key and value with as many heads or fewer.

    sequence_lengths add up to T; the model hands them on from its own keyword arguments. Raises ValueError where it
    does not, or asks for attention of another kind.
    """
    name = type(module).__name__
    if sequence_lengths is None:
        raise ValueError(f"{name}: does not hand sequence_lengths to its attention; choose another model")
    for option in UNSUPPORTED:
        if rest.get(option) is not None:
            raise ValueError(f"{name}: asks for {option}, which needs flash-attn on a GPU; choose another model")
    lengths = list(sequence_lengths)
    parts = zip(query.split(lengths, dim=2), key.split(lengths, dim=2), value.split(lengths, dim=2), strict=True)
    attended = [_attend(*part, scaling=scaling, sliding_window=sliding_window) for part in parts]
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous(), None


def _attend(query: Tensor, key: Tensor, value: Tensor, *, scaling: float | None, sliding_window: int | None) -> Tensor:
    """Causal attention [1, heads, L, D] of a sequence; a token sees itself and the sliding_window - 1 before it."""
    places = torch.arange(query.shape[2], device=query.device)
    seen = None  # all up to the token itself, for which kernels need no mask
    if sliding_window is not None and sliding_window < len(places):
        distance = places[:, None] - places
        seen = (distance >= 0) & (distance < sliding_window)
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=seen, is_causal=seen is None, scale=scaling, enable_gqa=True
    )


AttentionInterface.register(BY_SEQUENCE, attend_by_sequence)
