"""Tables of evaluations on a terminal, 80 characters wide. In: metrics or a comparison. Out: tables."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from orchestration.evaluate.compare import Comparison
from orchestration.terminal.console import print_line

LEVEL = "95 %"


def summary_table(metrics: Mapping[str, float], counts: Mapping[str, int], *, num_samples: int) -> Table:
    """Table of metrics with one row a set; counts: number of problems of each set."""
    table = _table("set", "problems", "pass@1", LEVEL, *_pass_at(num_samples), "format", "length", "cut off")
    for name, count in counts.items():
        numbers = {key.rpartition("/")[2]: value for key, value in metrics.items() if key.startswith(f"eval/{name}/")}
        table.add_row(
            name,
            f"{count:,}",
            f"{numbers['pass@1']:.1%}",
            f"{numbers['pass@1_low']:.1%} - {numbers['pass@1_high']:.1%}",
            *(f"{numbers[column]:.1%}" for column in _pass_at(num_samples)),
            f"{numbers['format']:.1%}",
            f"{numbers['length']:.1f}",
            f"{numbers['truncated_share']:.1%}",
        )
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Table with one row a set: pass@1 of A and B, A - B in percentage points with interval, p value."""
    table = _table("set", "problems", "A", "B", "A - B (points)", LEVEL, "p")
    for found in comparison.sets:
        difference = found.difference
        table.add_row(
            found.name,
            f"{found.num_problems:,}",
            f"{found.first:.1%}",
            f"{found.second:.1%}",
            f"{100 * difference.mean:+.1f}",
            f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}",
            f"{difference.p_value:.2g}" if difference.p_value >= 0.001 else "< 0.001",
        )
    return table


def print_comparison(comparison: Comparison, *, names: tuple[str, str]) -> None:
    """Prints which folder is A and which B, the settings that differ, and the table."""
    console = Console()
    for letter, name in zip("AB", names, strict=True):
        print_line(console, f"{letter} = {name}")
    for name, first, second in comparison.settings:
        print_line(console, f"{name}: A {first}, B {second}")
    console.print(comparison_table(comparison))


def _pass_at(num_samples: int) -> Sequence[str]:
    return [f"pass@{num_samples}"] if num_samples > 1 else []


def _table(name: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(name, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
