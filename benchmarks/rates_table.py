"""Paired rates as a table on the console."""

from rich.table import Table

from benchmarks.pairs import PairedRate


def rates_table(rates: list[PairedRate]) -> Table:
    """One row a pair: medians of both sides, ratio with its spread, target."""
    table = Table(title="Ours against a peer, medians of pairs")
    for column in ("part", "ours", "peer", "unit", "ratio", "min - max", "target", ""):
        table.add_column(column, justify="left" if column in ("part", "peer", "unit") else "right")
    for rate in rates:
        ours, peers = sorted(rate.ours), sorted(rate.peers)
        table.add_row(
            rate.name,
            f"{ours[len(ours) // 2]:,.3g}" if ours[0] < 100 else f"{ours[len(ours) // 2]:,.0f}",
            f"{rate.peer}: "
            + (f"{peers[len(peers) // 2]:,.3g}" if peers[0] < 100 else f"{peers[len(peers) // 2]:,.0f}"),
            rate.unit,
            f"{rate.ratio:.2f}",
            f"{min(rate.ratios):.2f} - {max(rate.ratios):.2f}",
            f"{rate.target:.2f}",
            "met" if rate.ratio >= rate.target else "missed",
        )
    return table
