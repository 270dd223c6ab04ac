"""Reports of the gate timings: a table, a JSON file, a plot, and the regressions against an earlier file.

In and out: GateTiming. This module measures nothing.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

# Least traffic of one float32 token, in bytes. The forward pass reads log-probability, old log-probability, advantage
# and loss weight (4 x 4) and writes log-ratio (4), slope (4) and trained (1). The backward pass adds the gradient (4).
BYTES_PER_TOKEN = {"forward": 25, "forward+backward": 29}
REGRESSION = 0.10  # share by which a regression takes more time a token than before
LABELS = ("gate", "phase", "by")
NUMBERS = (
    "time\n(ms)",
    "time\n(ratio)",
    "tokens\n(M/s)",
    "traffic\n(GB/s)",
    "of copy\n(%)",
    "memory\n(MB)",
    "memory\n(ratio)",
)
PLOT_SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True, kw_only=True, slots=True)
class GateTiming:
    """Time and memory of one gate's loss on float32 tokens, by one implementation."""

    gate: str
    implementation: str  # eager, compiled or fused
    phase: str  # a key of BYTES_PER_TOKEN
    num_tokens: int
    device: str
    num_threads: int
    seconds: float  # duration of one call, median over the repeats
    extra_bytes: int  # peak memory that one call allocates, its results included
    copy_gigabytes_per_s: float  # rate of a large copy on the same device, bytes read + written

    @property
    def key(self) -> tuple[str, str, str, int, str, int]:
        """Fields that must be equal for two timings to be comparable."""
        return self.gate, self.implementation, self.phase, self.num_tokens, self.device, self.num_threads

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.seconds

    @property
    def gigabytes_per_s(self) -> float:
        """Rate of the least possible traffic, BYTES_PER_TOKEN."""
        return BYTES_PER_TOKEN[self.phase] * self.tokens_per_s / 1e9

    @property
    def share_of_copy(self) -> float:
        return self.gigabytes_per_s / self.copy_gigabytes_per_s

    def to_json(self) -> dict[str, object]:
        derived = ("tokens_per_s", "gigabytes_per_s", "share_of_copy")
        return asdict(self) | {name: getattr(self, name) for name in derived}


def print_timings(timings: Sequence[GateTiming], console: Console) -> None:
    """Prints the timings to the console, a table a size."""
    eager = {(one.gate, one.phase, one.num_tokens): one for one in timings if one.implementation == "eager"}
    first = timings[0]
    console.print(
        f"Gated loss in float32 on {first.device}, threads: {first.num_threads}. The limit is a copy, at "
        f"{first.copy_gigabytes_per_s:.1f} GB/s; a token counts {BYTES_PER_TOKEN['forward']} bytes forward, "
        f"{BYTES_PER_TOKEN['forward+backward']} with backward (fwd+bwd). Ratios are to eager."
    )
    tables: dict[int, Table] = {}
    for timing in timings:
        if (table := tables.get(timing.num_tokens)) is None:
            title = f"{timing.num_tokens:,} tokens"
            table = Table(title=title, box=None, padding=(0, 1, 0, 0), pad_edge=False, title_justify="left")
            for column in (*LABELS, *NUMBERS):
                table.add_column(column, justify="left" if column in LABELS else "right", no_wrap=True)
            tables[timing.num_tokens] = table
        peer = eager[timing.gate, timing.phase, timing.num_tokens]
        table.add_row(
            timing.gate,
            timing.phase.replace("forward+backward", "fwd+bwd"),
            timing.implementation,
            _digits(timing.seconds * 1e3),
            f"{timing.seconds / peer.seconds:.2f}",
            _digits(timing.tokens_per_s / 1e6),
            f"{timing.gigabytes_per_s:.2f}",
            f"{100 * timing.share_of_copy:.0f}",
            _digits(timing.extra_bytes / 1e6),
            f"{timing.extra_bytes / peer.extra_bytes:.2f}",
        )
    for table in tables.values():
        console.print(table)


def _digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000.0 else f"{number:.3g}"


def write_timings(timings: Iterable[GateTiming], path: Path) -> None:
    """Writes the timings as JSON, for read_timings."""
    content = {"bytes_per_token": BYTES_PER_TOKEN, "timings": [timing.to_json() for timing in timings]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_timings(path: Path) -> list[GateTiming]:
    """The timings in a file that write_timings wrote."""
    rows = json.loads(path.read_text(encoding="utf-8"))["timings"]
    return [GateTiming(**{name: row[name] for name in GateTiming.__slots__}) for row in rows]


def regressions(old: Iterable[GateTiming], new: Iterable[GateTiming]) -> list[str]:
    """One line for each timing that is slower than the comparable old one by more than REGRESSION.

    Raises ValueError if no timing has a comparable old one.
    """
    before = {timing.key: timing for timing in old}
    pairs = [(before[timing.key], timing) for timing in new if timing.key in before]
    if not pairs:
        raise ValueError(
            "--compare: no gate, size, device and number of threads in common; measure the sizes of the file"
        )
    return [
        f"regression: {now.gate} {now.implementation} {now.phase}, {now.num_tokens:,} tokens: "
        f"{now.seconds * 1e3:.3f} ms, was {then.seconds * 1e3:.3f} ms ({now.seconds / then.seconds - 1.0:+.0%})"
        for then, now in pairs
        if now.seconds > (1.0 + REGRESSION) * then.seconds
    ]


def plot_timings(timings: Sequence[GateTiming], path: Path) -> None:
    """Tokens/s of forward + backward over the number of tokens, a panel a gate, with the copy as the limit."""
    from matplotlib.figure import Figure

    lines: dict[str, dict[str, list[tuple[int, float]]]] = {}  # (tokens, tokens/s) by gate and implementation
    for timing in timings:
        if timing.phase == "forward+backward":
            points = lines.setdefault(timing.gate, {}).setdefault(timing.implementation, [])
            points.append((timing.num_tokens, timing.tokens_per_s))
    limit = timings[0].copy_gigabytes_per_s * 1e9 / BYTES_PER_TOKEN["forward+backward"]
    num_rows = -(-len(lines) // 3)
    figure = Figure(figsize=(12.0, 3.4 * num_rows), layout="constrained")
    places = figure.subplots(num_rows, 3, sharex=True, sharey=True, squeeze=False).flat
    for axes, (gate, by_implementation) in zip(places, lines.items(), strict=False):
        for implementation, points in by_implementation.items():
            axes.loglog(*zip(*points, strict=True), marker="o", label=implementation)
        axes.axhline(limit, color="grey", linestyle="--", label="copy")
        axes.set(title=gate, xlabel="tokens", ylabel="tokens/s, forward + backward")
        axes.legend()
    figure.savefig(path)
