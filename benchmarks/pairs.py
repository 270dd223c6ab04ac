"""Paired measurement of ours and the peer in turn, so that a drift of the machine's speed affects both alike."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedRate:
    """Rates of ours and of the peer, run by run, in `unit`; a rate is work a second, so higher is better."""

    name: str
    peer: str
    unit: str
    ours: tuple[float, ...]
    peers: tuple[float, ...]
    target: float  # wanted median of ours / peer

    @property
    def ratios(self) -> tuple[float, ...]:
        return tuple(own / other for own, other in zip(self.ours, self.peers, strict=True))

    @property
    def ratio(self) -> float:
        """Median of ours / peer over the pairs."""
        return median(self.ratios)

    def to_json(self) -> dict[str, object]:
        ratios = {"ratio_median": self.ratio, "ratio_min": min(self.ratios), "ratio_max": max(self.ratios)}
        return asdict(self) | ratios


def measure_pairs(
    ours: Callable[[], float], peer: Callable[[], float], *, repeats: int, warmups: int = 1
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Calls ours and peer in turn, `warmups` times uncounted, then `repeats` times; each call returns its rate."""
    counted: list[tuple[float, float]] = []
    for attempt in range(warmups + repeats):
        pair = (ours(), peer())
        if attempt >= warmups:
            counted.append(pair)
    own, other = zip(*counted, strict=True)
    return tuple(own), tuple(other)
