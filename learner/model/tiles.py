"""Softmax sums over a vocabulary, and their gradient, tile by tile: some positions by some of the vocabulary.

In: hidden states [K, H], the output embedding, a grid. Out: what [K, V] logits come to, and the inputs' gradients. A
tile is made, used and forgotten. Knows nothing of autograd, and not what a token's logprob is asked for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

TILE_POSITIONS = 1024  # more would not make the products faster, and would leave fewer columns for a tile
LOWEST_SHIFTED = -200.0  # exp of it is 0 in float32, and 0 times it is 0 where 0 times -inf would be nan


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """Cuts [positions, vocabulary] into tiles; those at the lower and right edge may be smaller."""

    positions: int  # positions of a tile
    tokens: int  # tokens of the vocabulary of a tile

    @classmethod
    def within(cls, max_logits: int, *, num_positions: int, vocabulary: int) -> Self:
        """Tiles of at most max_logits: as many positions as make good products, then as much of the vocabulary."""
        positions = min(num_positions, max_logits, max(TILE_POSITIONS, max_logits // vocabulary))
        return cls(positions=positions, tokens=min(vocabulary, max_logits // positions))

    def rows(self, num_positions: int) -> Iterator[slice]:
        return (slice(start, start + self.positions) for start in range(0, num_positions, self.positions))

    def columns(self, vocabulary: int) -> Iterator[slice]:
        starts = range(0, vocabulary, self.tokens)
        return (slice(start, min(start + self.tokens, vocabulary)) for start in starts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Projection:
    """The output embedding, and the temperature that divides its logits."""

    weight: Tensor  # [V, H]
    bias: Tensor | None  # [V]
    temperature: float

    def logits(self, hidden: Tensor, columns: slice) -> Tensor:
        """[k, v] float32, widened from the weight's dtype; the caller may overwrite it."""
        bias = None if self.bias is None else self.bias[columns]
        logits = functional.linear(hidden, self.weight[columns], bias).float()
        return logits if self.temperature == 1.0 else logits.div_(self.temperature)


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftmaxSums:
    """Sums over each position's logits z, [K] float32."""

    maximum: Tensor  # max z
    total: Tensor  # sum of exp(z - maximum), at least 1
    entropy: Tensor  # nats

    def at(self, rows: slice | Tensor) -> "SoftmaxSums":
        """The same of some of the positions."""
        return SoftmaxSums(maximum=self.maximum[rows], total=self.total[rows], entropy=self.entropy[rows])


def softmax_sums(hidden: Tensor, targets: Tensor, projection: Projection, grid: Grid) -> tuple[Tensor, SoftmaxSums]:
    """The targets' logprobs [K] float32, and the sums that a gradient needs; one pass over the vocabulary."""
    rows = list(grid.rows(len(hidden)))
    running = [_RunningSums.start(targets[row]) for row in rows]
    for columns in grid.columns(len(projection.weight)):
        for row, part in zip(rows, running, strict=True):
            part.add(projection.logits(hidden[row], columns), columns)
    target = torch.cat([part.target for part in running])
    maximum = torch.cat([part.maximum for part in running])
    total = torch.cat([part.total for part in running])
    shifted = torch.cat([part.shifted for part in running])
    log_total = total.log()
    sums = SoftmaxSums(maximum=maximum, total=total, entropy=log_total - shifted / total)
    return target - maximum - log_total, sums


@dataclass(kw_only=True, slots=True)
class _RunningSums:
    """Sums over the columns seen so far, of k positions with logits z. A later, larger maximum rescales them."""

    targets: Tensor  # [k] int64
    maximum: Tensor  # [k] max z
    total: Tensor  # [k] sum of exp(z - maximum)
    shifted: Tensor  # [k] sum of exp(z - maximum) * (z - maximum)
    target: Tensor  # [k] z of the target, once its column was seen

    @classmethod
    def start(cls, targets: Tensor) -> Self:
        zeros = torch.zeros(len(targets), dtype=torch.float32, device=targets.device)
        lowest = torch.full_like(zeros, torch.finfo(torch.float32).min)  # finite: -inf - -inf would be nan
        return cls(targets=targets, maximum=lowest, total=zeros, shifted=zeros, target=zeros)

    def add(self, logits: Tensor, columns: slice) -> None:
        """Overwrites the logits [k, v] of these columns."""
        place, inside = _places(self.targets, columns)
        self.target = torch.where(inside, logits.gather(-1, place.unsqueeze(-1)).squeeze(-1), self.target)
        maximum = torch.maximum(self.maximum, logits.amax(dim=-1))
        drop = self.maximum - maximum
        scale = drop.exp()
        shifted = logits.sub_(maximum.unsqueeze(-1)).clamp_(min=LOWEST_SHIFTED)
        exps = shifted.exp()
        self.shifted = scale * (self.shifted + drop * self.total) + torch.linalg.vecdot(exps, shifted)
        self.total = scale * self.total + exps.sum(dim=-1)
        self.maximum = maximum


@dataclass(frozen=True, kw_only=True, slots=True)
class LogitGradient:
    """The gradient of k positions' logits, from what arrives for their logprobs (u) and entropies (v).

    With p the softmax and h the entropy, that of logit j is u * ([j is the target] - p_j) - v * p_j * (log p_j + h).
    u and v divided by the temperature give the gradient of the logits before they were divided by it.
    """

    targets: Tensor  # [k] int64
    sums: SoftmaxSums  # sums of the k positions
    of_logprobs: Tensor  # [k] u
    of_entropy: Tensor | None  # [k] v; None where the entropy has no gradient

    def at(self, rows: slice | Tensor) -> "LogitGradient":
        """The same of some of the positions."""
        return LogitGradient(
            targets=self.targets[rows],
            sums=self.sums.at(rows),
            of_logprobs=self.of_logprobs[rows],
            of_entropy=None if self.of_entropy is None else self.of_entropy[rows],
        )

    def active(self) -> Tensor:
        """Indices of the positions whose gradient is not 0: fillers and completions without advantage cost nothing."""
        moved = self.of_logprobs != 0.0
        return (moved if self.of_entropy is None else moved | (self.of_entropy != 0.0)).nonzero().squeeze(-1)

    def of(self, logits: Tensor, columns: slice) -> Tensor:
        """[k, v] for the logits of these columns, which are overwritten."""
        sums = self.sums
        shifted = logits.sub_(sums.maximum.unsqueeze(-1))
        if self.of_entropy is None:
            gradient = shifted.exp_().mul_((-self.of_logprobs / sums.total).unsqueeze(-1))
        else:
            exps = shifted.clamp_(min=LOWEST_SHIFTED).exp()
            log_p_and_h = shifted.add_((sums.entropy - sums.total.log()).unsqueeze(-1))
            slopes = log_p_and_h.mul_(self.of_entropy.unsqueeze(-1)).add_(self.of_logprobs.unsqueeze(-1))
            gradient = slopes.mul_(exps).mul_((-1.0 / sums.total).unsqueeze(-1))
        place, inside = _places(self.targets, columns)
        at_target = torch.where(inside, self.of_logprobs, 0.0)
        return gradient.scatter_add_(-1, place.unsqueeze(-1), at_target.unsqueeze(-1))


def input_gradients(
    hidden: Tensor, projection: Projection, grid: Grid, of_logits: LogitGradient, *, of_weight: bool, of_bias: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Gradients of hidden [K, H], weight [V, H] and bias [V] in their dtypes, None where not asked for.

    of_logits: of the logits before the temperature, at hidden's positions. It is one more pass over the vocabulary.
    Columns are the outer loop, so that each part of the weight is read once and each part of its gradient written once.
    """
    weight, bias = projection.weight, projection.bias
    rows = list(grid.rows(len(hidden)))
    row_gradients = [of_logits.at(row) for row in rows]
    hidden_sum = torch.zeros_like(hidden, dtype=torch.float32)
    weight_gradient = torch.zeros_like(weight) if of_weight else None
    bias_sum = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and of_bias else None
    for columns in grid.columns(len(weight)):
        weight_part = None if weight_gradient is None else weight_gradient[columns]
        weight_sum = weight_part
        if weight_part is not None and weight_part.dtype != torch.float32 and len(rows) > 1:
            weight_sum = torch.zeros_like(weight_part, dtype=torch.float32)  # products add up beside the part
        for row, row_gradient in zip(rows, row_gradients, strict=True):
            tile = row_gradient.of(projection.logits(hidden[row], columns), columns)
            if bias_sum is not None:
                bias_sum[columns] += tile.sum(dim=0)
            tile = tile.to(weight.dtype)
            _add_product(hidden_sum[row], tile, weight[columns])
            if weight_sum is not None:
                _add_product(weight_sum, tile.T, hidden[row])
        if weight_part is not None and weight_sum is not None and weight_sum is not weight_part:
            weight_part.copy_(weight_sum)
    of_bias_sum = None if bias is None or bias_sum is None else bias_sum.to(bias.dtype)
    return hidden_sum.to(hidden.dtype), weight_gradient, of_bias_sum


def _places(targets: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Place of each target among these columns, 0 where it is not there; and whether it is."""
    place = targets - columns.start
    inside = (place >= 0) & (place < columns.stop - columns.start)
    return torch.where(inside, place, 0), inside


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)
