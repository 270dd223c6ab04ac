"""Paired measurement of ours and the peer in turn, so that a drift of the machine's speed affects both alike."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median, median_high

from rich.console import Console

from benchmarks.figures import median_and_range, print_table

WARMUPS = 2  # uncounted runs of each side


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedRate:
    """Rates of ours and of the peer, run by run, in `unit`; a rate is work a second, so higher is better."""

    name: str
    peer: str
    unit: str
    target: float  # wanted median of ours / peer
    ours: tuple[float, ...]
    peers: tuple[float, ...]

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
    ours: Callable[[], float], peer: Callable[[], float], *, repeats: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Calls ours and peer in turn, WARMUPS times uncounted, then `repeats` times; each call returns its rate."""
    pairs = [(ours(), peer()) for _ in range(WARMUPS + repeats)]
    own, other = zip(*pairs[WARMUPS:], strict=True)
    return own, other


def print_rates(console: Console, rates: Sequence[PairedRate]) -> None:
    """Prints one row a pair: medians of both sides, ratio with its spread, target."""
    columns = ("part", "ours", "peer", "unit", "ratio", "min - max", "target", "")
    rows = [
        (
            rate.name,
            _shown(rate.ours),
            f"{rate.peer}: {_shown(rate.peers)}",
            rate.unit,
            *median_and_range(rate.ratios, "{:.2f}"),
            f"{rate.target:.2f}",
            "met" if rate.ratio >= rate.target else "missed",
        )
        for rate in rates
    ]
    print_table(console, "Ours against a peer, medians of pairs", columns, rows, text=("part", "peer", "unit"))


def _shown(rates: Sequence[float]) -> str:
    """The median as text, with digits according to its size."""
    return f"{median_high(rates):,.3g}" if min(rates) < 100 else f"{median_high(rates):,.0f}"
