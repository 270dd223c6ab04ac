"""Tables of figures on the console."""

from rich.console import Console
from rich.table import Table

from benchmarks.pairs import PairedRate

FILE_WIDTH = 116  # width of a table in characters if no terminal limits it


def print_table(console: Console, table: Table) -> None:
    """Prints the table, wide if the output is a file."""
    if not console.is_terminal:
        console.width = FILE_WIDTH
    console.print(table)


def rates_table(rates: list[PairedRate]) -> Table:
    """Table with one row a pair: medians of both sides, ratio with its spread, target."""
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
