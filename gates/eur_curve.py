"""EUR of one optimizer step as a function of tau: its deficit 1 - EUR on a grid of taus, by sign of the advantage.

In: log-ratios, signs and groups of trained tokens. Out: one flat tensor of sums that are added over ranks, and from it
the deficits, with eq. 12's mean over groups of the group's token mean. Pure; knows nothing of the use of the curves.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gates.shapes import GateShape

SIGNS = ("pos", "neg")
CHUNK = 1 << 16  # tokens evaluated at once, at all taus; bounds the memory


@dataclass(frozen=True, kw_only=True, slots=True)
class EurCurves:
    """The gate's shape, the taus, and the shape of the sums; equal on all ranks."""

    shape: GateShape
    taus: tuple[float, ...]  # [K] taus at which the deficit is measured
    num_groups: int

    def sums(self, *, log_ratio: Tensor, positive: Tensor, group_index: Tensor) -> Tensor:
        """Flat float64 sums over T tokens; the sums of several ranks are added.

        log_ratio [T]; positive [T] bool, advantage > 0; group_index [T] int64 in 0..num_groups-1.
        """
        ratio = torch.exp(log_ratio.double())
        place = torch.where(positive, 0, self.num_groups) + group_index
        taus = ratio.new_tensor(self.taus)[:, None]
        sums = ratio.new_zeros(len(self.taus) + 1, len(SIGNS) * self.num_groups)
        for ratios, places in zip(ratio.split(CHUNK), place.split(CHUNK), strict=True):
            deficits = 1.0 - self.shape.slope(ratios, taus)
            sums.index_add_(1, places, torch.cat([deficits, torch.ones_like(ratios)[None]]))
        return sums.flatten()

    def deficits(self, sums: Tensor) -> dict[str, tuple[float, ...]]:
        """Deficits 1 - EUR (eq. 12) at each tau, for each sign that has tokens."""
        found = {}
        for sign, rows in zip(SIGNS, sums.cpu().view(len(self.taus) + 1, len(SIGNS), -1).unbind(1), strict=True):
            present = rows[:, rows[-1] > 0]
            if present.numel():
                found[sign] = tuple((present[:-1] / present[-1]).mean(1).tolist())
        return found
