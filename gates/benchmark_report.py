"""Reports of the gate timings: a table, a JSON file, a plot, and the regressions against an earlier file.

In and out: GateTiming. This module measures nothing.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
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
    eager = {_peers(timing): timing for timing in timings if timing.implementation == "eager"}
    first = timings[0]
    console.print(
        f"Gated loss in float32 on {first.device}, threads: {first.num_threads}. The limit is a copy, at "
        f"{first.copy_gigabytes_per_s:.1f} GB/s; a token counts {BYTES_PER_TOKEN['forward']} bytes forward, "
        f"{BYTES_PER_TOKEN['forward+backward']} with backward (fwd+bwd). Ratios are to eager."
    )
    for num_tokens in dict.fromkeys(timing.num_tokens for timing in timings):
        rows = [timing for timing in timings if timing.num_tokens == num_tokens]
        console.print(_table(f"{num_tokens:,} tokens", rows, eager))


def _table(title: str, timings: Iterable[GateTiming], eager: Mapping[tuple[object, ...], GateTiming]) -> Table:
    table = Table(title=title, box=None, padding=(0, 1, 0, 0), pad_edge=False, title_justify="left")
    for label in LABELS:
        table.add_column(label, no_wrap=True)
    for number in NUMBERS:
        table.add_column(number, justify="right", no_wrap=True)
    for timing in timings:
        peer = eager[_peers(timing)]
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
    return table


def _digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000.0 else f"{number:.3g}"


def _peers(timing: GateTiming) -> tuple[object, ...]:
    return timing.gate, timing.phase, timing.num_tokens


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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    gates = list(dict.fromkeys(timing.gate for timing in timings))
    limit = timings[0].copy_gigabytes_per_s * 1e9 / BYTES_PER_TOKEN["forward+backward"]
    num_rows = -(-len(gates) // 3)
    figure = Figure(figsize=(12.0, 3.4 * num_rows), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, gate in zip(
        figure.subplots(num_rows, 3, sharex=True, sharey=True, squeeze=False).flat, gates, strict=False
    ):
        shown = [timing for timing in timings if timing.gate == gate and timing.phase == "forward+backward"]
        for implementation in dict.fromkeys(timing.implementation for timing in shown):
            line = [timing for timing in shown if timing.implementation == implementation]
            axes.loglog(
                [timing.num_tokens for timing in line],
                [timing.tokens_per_s for timing in line],
                marker="o",
                label=implementation,
            )
        axes.axhline(limit, color="grey", linestyle="--", label="copy")
        axes.set(title=gate, xlabel="tokens", ylabel="tokens/s, forward + backward")
        axes.legend()
    figure.savefig(path)
