"""The audit: what every built-in gate would have done with the same tokens, and how log-ratios spread over sequences.

In: log-ratios, advantages, groups and sequences of trained tokens. Out: one flat tensor of sums that are added over
ranks, and metrics from it. Pure; knows nothing of models or losses.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gates.gate import ClipGate, Gate, SoftGate, built_in_gates
from gates.loss import effective_update_ratio
from gates.power import PowerShape
from gates.shapes import SHAPES

DAMPED_BELOW = 0.5  # slope below which a token has lost more than half of its gradient
SIGNS = ("pos", "neg")
_QUANTITIES = ("slope", "weight", "weight_squared", "damped", "dot_clip", "gradient_squared")
_SPREAD = ("within_squared", "mean", "mean_squared")  # spread of log-ratios by sequence, each summed over tokens


def audited_gates(gate: Gate) -> dict[str, Gate]:
    """Every built-in gate at the run's temperatures; the run's own gate, if built-in, with its own parameters."""
    taus = {"tau_pos": gate.tau_pos, "tau_neg": gate.tau_neg} if isinstance(gate, SoftGate) else {}
    return built_in_gates(**taus) | ({gate.name: gate} if _is_built_in(gate) else {})


def _is_built_in(gate: Gate) -> bool:
    """Whether the gate is built-in. A custom gate may also be a SoftGate, of another shape and of any name."""
    if isinstance(gate, SoftGate):
        return gate.shape == SHAPES.get(gate.name) or (isinstance(gate.shape, PowerShape) and gate.name == "power")
    return isinstance(gate, ClipGate)


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditTokens:
    """Trained tokens of one optimizer step on one rank; every sequence is whole on one rank."""

    log_ratio: Tensor  # [T] log-ratio that the gate is applied to
    token_log_ratio: Tensor  # [T] log-ratio of the token itself; differs where the gate is applied to the sequence's
    advantages: Tensor  # [T]
    group_index: Tensor  # [T] int64, group of the token, 0..num_groups-1
    staleness: Tensor  # [T] int64, staleness in policy versions, 0..num_staleness-1
    sequence: Tensor  # [T] int64, a number of the token's sequence, unique on the rank


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """The audited gates and the shape of their sums; equal on all ranks."""

    gates: Mapping[str, Gate]  # audited gates by name; must contain "clip", with which the others are compared
    num_groups: int
    num_staleness: int  # number of stalenesses, from 0; 1 if every token is of the learner's version

    @property
    def _sizes(self) -> dict[str, tuple[int, ...]]:
        num_gates, num_cells, num_places = len(self.gates), 2 * self.num_staleness, 2 * self.num_groups
        return {
            "cells": (num_gates, len(_QUANTITIES), num_cells),  # a cell is a sign and a staleness
            "cell_tokens": (num_cells,),
            "places": (num_gates, num_places),  # slope by sign and group
            "place_tokens": (num_places,),
            "spread": (len(_SPREAD),),
        }

    def sums(self, tokens: AuditTokens) -> Tensor:
        """Flat float64 sums over the tokens; the sums of several ranks are added."""
        sign = (tokens.advantages <= 0).long()
        cell = sign * self.num_staleness + tokens.staleness
        place = sign * self.num_groups + tokens.group_index
        quantities, slopes = self._quantities(tokens)
        ones = torch.ones_like(tokens.log_ratio, dtype=torch.float64)
        zeros = {name: ones.new_zeros(size) for name, size in self._sizes.items()}
        parts = (
            zeros["cells"].index_add_(2, cell, quantities),
            zeros["cell_tokens"].index_add_(0, cell, ones),
            zeros["places"].index_add_(1, place, slopes),
            zeros["place_tokens"].index_add_(0, place, ones),
            _spread_sums(tokens.token_log_ratio.double(), tokens.sequence),
        )
        return torch.cat([part.flatten() for part in parts])

    def _quantities(self, tokens: AuditTokens) -> tuple[Tensor, Tensor]:
        """_QUANTITIES [gates, quantities, T] and slopes [gates, T], float64."""
        ratio, positive = torch.exp(tokens.log_ratio), tokens.advantages > 0
        slopes = torch.stack([gate.slope(ratio, positive) for gate in self.gates.values()]).double()
        weights = slopes * ratio.double()
        gradients = weights * tokens.advantages.double()
        clip = gradients[list(self.gates).index("clip")]
        damped = (slopes < DAMPED_BELOW).double()
        columns = (slopes, weights, weights.square(), damped, gradients * clip, gradients.square())
        return torch.stack(columns, dim=1), slopes

    def summarize(self, sums: Tensor) -> dict[str, float]:
        """Numbers by metric name; a metric that does not apply is absent, and without tokens all are.

        Each is computed over all tokens, by sign of the advantage and, if there are several, by staleness. EUR is eq.
        12 (mean over groups of the group's token mean). By staleness it is the mean over tokens, because a group may
        have few tokens of one staleness.
        """
        sizes = {name: torch.Size(size) for name, size in self._sizes.items()}
        parts = sums.cpu().split([size.numel() for size in sizes.values()])
        named = {name: part.view(size) for (name, size), part in zip(sizes.items(), parts, strict=True)}
        cell_tokens = named["cell_tokens"].view(2, self.num_staleness)
        if not cell_tokens.any():
            return {}
        cells = named["cells"].view(len(self.gates), len(_QUANTITIES), 2, self.num_staleness)
        places, place_tokens = named["places"].view(-1, 2, self.num_groups), named["place_tokens"].view(2, -1)
        clip = cells[list(self.gates).index("clip")]
        found = _spread_metrics(named["spread"], float(cell_tokens.sum()))
        for suffix, (signs, ages) in self._selections().items():
            num_tokens = float(cell_tokens[signs, ages].sum())
            if not num_tokens:
                continue
            of_clip = dict(zip(_QUANTITIES, clip[:, signs, ages].sum((1, 2)).tolist(), strict=True))
            for gate, own, slopes in zip(self.gates, cells, places, strict=True):
                sums_of = dict(zip(_QUANTITIES, own[:, signs, ages].sum((1, 2)).tolist(), strict=True))
                numbers = _numbers(sums_of, of_clip, num_tokens)
                if "staleness" not in suffix:
                    numbers["eur"] = effective_update_ratio(slopes[signs].sum(0), place_tokens[signs].sum(0))
                found |= {f"audit/{gate}/{name}{suffix}": value for name, value in numbers.items()}
        return found

    def _selections(self) -> dict[str, tuple[slice, slice]]:
        """Signs and stalenesses over which metrics are computed, by the suffix of their names."""
        every = slice(None)
        found = {"": (every, every), "_pos": (slice(0, 1), every), "_neg": (slice(1, 2), every)}
        ages = range(self.num_staleness if self.num_staleness > 1 else 0)
        return found | {f"_staleness_{age}": (every, slice(age, age + 1)) for age in ages}


def _numbers(own: Mapping[str, float], of_clip: Mapping[str, float], num_tokens: float) -> dict[str, float]:
    """Metrics of a gate over one selection of tokens, from its sums of _QUANTITIES and clip's."""
    found = {"eur": own["slope"] / num_tokens, "damped_share": own["damped"] / num_tokens}
    if own["weight_squared"] > 0:
        found["ess"] = own["weight"] ** 2 / (num_tokens * own["weight_squared"])
    if own["gradient_squared"] > 0 and of_clip["gradient_squared"] > 0:
        found["clip_cosine"] = own["dot_clip"] / (own["gradient_squared"] * of_clip["gradient_squared"]) ** 0.5
    return found


def _spread_sums(log_ratio: Tensor, sequence: Tensor) -> Tensor:
    """Sums of _SPREAD over float64 log-ratios [T]."""
    _, place, lengths = torch.unique(sequence, return_inverse=True, return_counts=True)
    sums = torch.zeros(len(lengths), dtype=torch.float64, device=log_ratio.device).index_add_(0, place, log_ratio)
    means = sums / lengths
    within = (log_ratio - means[place]).square().sum()
    return torch.stack([within, sums.sum(), (means * sums).sum()])


def _spread_metrics(spread: Tensor, num_tokens: float) -> dict[str, float]:
    within, mean, mean_squared = (value / num_tokens for value in spread.tolist())
    return {
        "ratio/log_std_within": within**0.5,
        "ratio/log_std_between": max(mean_squared - mean**2, 0.0) ** 0.5,
    }
