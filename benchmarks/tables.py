"""Tables of figures on the console."""

from collections.abc import Sequence
from statistics import median_high

from rich.console import Console
from rich.table import Table

from benchmarks.pairs import PairedRate

FILE_WIDTH = 116  # width of a table in characters if no terminal limits it


def print_table(console: Console, table: Table) -> None:
    """Prints the table, wide if the output is a file."""
    if not console.is_terminal:
        console.width = FILE_WIDTH
    console.print(table)


def new_table(title: str, *columns: str, text: Sequence[str] = ()) -> Table:
    """An empty table; its columns hold numbers, except for those named in `text`."""
    table = Table(title=title, box=None, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, justify="left" if column in text else "right", no_wrap=column in text)
    return table


def rates_table(rates: list[PairedRate]) -> Table:
    """Table with one row a pair: medians of both sides, ratio with its spread, target."""
    columns = ("part", "ours", "peer", "unit", "ratio", "min - max", "target", "")
    table = new_table("Ours against a peer, medians of pairs", *columns, text=("part", "peer", "unit"))
    for rate in rates:
        table.add_row(
            rate.name,
            _shown(rate.ours),
            f"{rate.peer}: {_shown(rate.peers)}",
            rate.unit,
            f"{rate.ratio:.2f}",
            f"{min(rate.ratios):.2f} - {max(rate.ratios):.2f}",
            f"{rate.target:.2f}",
            "met" if rate.ratio >= rate.target else "missed",
        )
    return table


def _shown(rates: Sequence[float]) -> str:
    """The median as text, with digits according to its size."""
    return f"{median_high(rates):,.3g}" if min(rates) < 100 else f"{median_high(rates):,.0f}"
