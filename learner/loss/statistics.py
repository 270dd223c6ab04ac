"""Statistics of one optimizer step, gathered over micro-batches and ranks (names of docs/metrics.md).

In: the objective's quantities of each token. Out: numbers by metric name. Everything is held in two flat float64
tensors, which the caller merges over ranks by one SUM and one MAX all-reduce. Nothing here communicates, and add() does
not wait for a GPU.
"""

from collections.abc import Mapping
from math import exp

import torch
from torch import Tensor

from gates.loss import LOG_RATIO_LIMIT, TOTALS, GateMetrics, effective_update_ratio

_SCALARS = (*TOTALS, "loss", "entropy", "mismatch_tokens", "mismatch_k3")
_BY_GROUP = ("slope_pos", "tokens_pos", "slope_neg", "tokens_neg")
_MAXIMA = ("log_ratio", "negative_log_ratio", "mismatch")


class StepStatistics:
    """Sums and maxima over trained tokens.

    To merge ranks, all-reduce `sums` (SUM) and `maxima` (MAX) in place.
    """

    def __init__(
        self, *, num_groups: int, device: torch.device | str = "cpu", token_means: tuple[str, ...] = ()
    ) -> None:
        """token_means: names of further metrics, each the mean over trained tokens of the values add() is given."""
        self.num_groups = num_groups
        self._token_means = token_means
        size = len(_SCALARS) + len(_BY_GROUP) * num_groups + len(token_means)
        self.sums = torch.zeros(size, dtype=torch.float64, device=device)
        self.maxima = torch.full((len(_MAXIMA),), -torch.inf, dtype=torch.float64, device=device)

    def add(
        self,
        metrics: GateMetrics,
        *,
        group_index: Tensor,
        advantages: Tensor,
        loss: Tensor,
        entropy: Tensor,
        mismatch_log_ratio: Tensor,
        same_weights: Tensor,
        token_means: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Adds one micro-batch of K tokens; tokens that are not trained do not count.

        group_index [K] in 0..num_groups-1; advantages [K]; loss: scalar, the micro-batch's part of the step's loss;
        entropy [K] in nats; mismatch_log_ratio [K]: learner's current minus rollout logprobs; it counts where
        same_weights [K] (bool) is True, because under other weights it would measure the policy's drift. token_means:
        [K] for each name that the constructor was given.
        """
        trained = metrics.trained
        comparable = trained & same_weights
        limited = _where(comparable, mismatch_log_ratio).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        self.sums[: len(TOTALS)] += metrics.totals
        scalars = {
            "loss": loss.detach().double(),
            "entropy": _where(trained, entropy).sum(),
            "mismatch_tokens": comparable.sum(),
            "mismatch_k3": (torch.expm1(limited) - limited).sum(),
        }
        maxima = {
            "log_ratio": metrics.largest_log_ratio,
            "negative_log_ratio": _maximum(trained, -metrics.log_ratio),
            "mismatch": _maximum(comparable, mismatch_log_ratio.abs()),
        }
        for name, value in scalars.items():
            self.sums[_SCALARS.index(name)] += value
        for name, value in maxima.items():
            self.maxima[_MAXIMA.index(name)].clamp_(min=value)

        positive = advantages > 0
        for sign, mask in (("pos", trained & positive), ("neg", trained & ~positive)):
            self._groups(f"slope_{sign}").index_add_(0, group_index, _where(mask, metrics.slope))
            self._groups(f"tokens_{sign}").index_add_(0, group_index, mask.double())
        given = token_means or {}
        assert set(given) == set(self._token_means), (sorted(given), self._token_means)
        for place, name in enumerate(self._token_means):
            self._own_means[place] += _where(trained, given[name]).sum()

    @property
    def num_tokens(self) -> int:
        """Trained completion tokens so far."""
        return int(self._scalar("tokens"))

    def summarize(self) -> dict[str, float]:
        """Metrics by name. A metric without tokens, or that was not computed, is absent."""
        tokens = self._scalar("tokens")
        if tokens == 0:
            return {}
        mean_excess = self._scalar("ratio_excess") / tokens
        summary = {
            "loss": self._scalar("loss"),
            "policy/entropy": self._scalar("entropy") / tokens,
            "ratio/mean": 1.0 + mean_excess,
            "ratio/variance": max(self._scalar("ratio_excess_squared") / tokens - mean_excess**2, 0.0),
            "ratio/max": exp(self._maximum("log_ratio")),
            "ratio/min": exp(-self._maximum("negative_log_ratio")),
        }
        slope_pos, tokens_pos, slope_neg, tokens_neg = (self._groups(name) for name in _BY_GROUP)
        summary["gate/eur"] = effective_update_ratio(slope_pos + slope_neg, tokens_pos + tokens_neg)
        if tokens_pos.any():
            summary["gate/eur_pos"] = effective_update_ratio(slope_pos, tokens_pos)
        if tokens_neg.any():
            summary["gate/eur_neg"] = effective_update_ratio(slope_neg, tokens_neg)
        if self._scalar("gate_weight_squared") > 0:
            squared_mean = (self._scalar("gate_weight") / tokens) ** 2
            summary["gate/weight_ess"] = squared_mean / (self._scalar("gate_weight_squared") / tokens)
        if self._scalar("mismatch_tokens") > 0:
            summary["mismatch/kl"] = self._scalar("mismatch_k3") / self._scalar("mismatch_tokens")
            summary["mismatch/max"] = self._maximum("mismatch")
        for name, total in zip(self._token_means, self._own_means.tolist(), strict=True):
            summary[name] = total / tokens
        return summary

    def _scalar(self, name: str) -> float:
        return float(self.sums[_SCALARS.index(name)])

    def _maximum(self, name: str) -> float:
        return float(self.maxima[_MAXIMA.index(name)])

    @property
    def _own_means(self) -> Tensor:
        """View of the sums of token_means, which come last."""
        return self.sums[len(self.sums) - len(self._token_means) :]

    def _groups(self, name: str) -> Tensor:
        """[num_groups] view of the sums of one quantity by group."""
        start = len(_SCALARS) + _BY_GROUP.index(name) * self.num_groups
        return self.sums[start : start + self.num_groups]


def _where(mask: Tensor, tensor: Tensor) -> Tensor:
    return torch.where(mask, tensor.detach().double(), 0.0)


def _maximum(mask: Tensor, tensor: Tensor) -> Tensor:
    """Largest entry under the mask, -inf where there is none."""
    candidates = torch.where(mask, tensor.detach().double(), -torch.inf)
    return torch.cat([candidates, candidates.new_full((1,), -torch.inf)]).max()
