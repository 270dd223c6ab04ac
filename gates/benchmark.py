"""`python -m gates.benchmark`: how fast each gate runs, forward and backward, against the machine's copy bandwidth.

In: sizes, repeats and a device. Out: one timing for each gate and size, as a table and as JSON.
This module knows nothing of models: it times the gate alone, on random ratios near 1.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from gates.gate import GATES, Gate, get_gate

# Least traffic of one float32 token: forward reads ratio (4) and sign (1) and writes the value (4);
# backward reads the incoming gradient (4), ratio and sign again (5), and writes a gradient (4).
BYTES_PER_TOKEN = 22
COPY_BYTES = 64 * 2**20  # read and written once each; larger than the caches of the machines we meet
SHORTEST_SAMPLE_S = 0.02  # a sample repeats the work until it lasts this long, far above the clock's resolution


@dataclass(frozen=True, kw_only=True, slots=True)
class GateTiming:
    """Forward + backward of one gate on float32 ratios."""

    gate: str
    num_tokens: int
    device: str
    tokens_per_s: float  # median over the repeats
    gigabytes_per_s: float  # of the least possible traffic, BYTES_PER_TOKEN
    copy_gigabytes_per_s: float  # of a large copy on the same device, bytes read + written

    @property
    def share_of_copy(self) -> float:
        return self.gigabytes_per_s / self.copy_gigabytes_per_s


def benchmark_gates(sizes: Sequence[int], repeats: int, device: torch.device | str) -> list[GateTiming]:
    """Time every built-in gate at every size (tokens), the median of several repeats each."""
    copy_gigabytes_per_s = _copy_gigabytes_per_s(repeats, device)
    timings = []
    for num_tokens in sizes:
        generator = torch.Generator(device).manual_seed(0)
        ratio = torch.exp(0.2 * torch.randn(num_tokens, device=device, generator=generator)).requires_grad_()
        positive = torch.rand(num_tokens, device=device, generator=generator) > 0.5
        upstream = torch.ones_like(ratio)
        for name in GATES:
            seconds = _median_seconds(_forward_backward(_paper_gate(name), ratio, positive, upstream), repeats, device)
            timing = GateTiming(
                gate=name,
                num_tokens=num_tokens,
                device=str(device),
                tokens_per_s=num_tokens / seconds,
                gigabytes_per_s=BYTES_PER_TOKEN * num_tokens / seconds / 1e9,
                copy_gigabytes_per_s=copy_gigabytes_per_s,
            )
            timings.append(timing)
    return timings


def _copy_gigabytes_per_s(repeats: int, device: torch.device | str) -> float:
    source = torch.rand(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / _median_seconds(lambda: target.copy_(source), repeats, device) / 1e9


def _paper_gate(name: str) -> Gate:
    if name == "clip":
        return get_gate(name, epsilon_low=0.2, epsilon_high=0.2)
    return get_gate(name, tau_pos=10.0, tau_neg=12.0)


def _forward_backward(gate: Gate, ratio: Tensor, positive: Tensor, upstream: Tensor) -> Callable[[], object]:
    return lambda: torch.autograd.grad(gate.value(ratio, positive), ratio, upstream)


def _median_seconds(work: Callable[[], object], repeats: int, device: torch.device | str) -> float:
    """Median duration of one call of work."""
    once = _seconds(work, 3, device)  # warms up allocator and caches, too
    calls = max(1, round(3 * SHORTEST_SAMPLE_S / once))
    return statistics.median(_seconds(work, calls, device) / calls for _ in range(repeats))


def _seconds(work: Callable[[], object], calls: int, device: torch.device | str) -> float:
    is_cuda = torch.device(device).type == "cuda"
    if is_cuda:
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(calls):
        work()
    if is_cuda:
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def print_timings(timings: Sequence[GateTiming], console: Console) -> None:
    """Write the timings as a table to the console."""
    copy = f"{timings[0].copy_gigabytes_per_s:.1f} GB/s"
    table = Table(title=f"Gates, forward + backward in float32 on {timings[0].device}; a copy runs at {copy}")
    for column in ("gate", "tokens", "million tokens/s", "GB/s", "share of copy"):
        table.add_column(column, justify="left" if column == "gate" else "right")
    for timing in timings:
        table.add_row(
            timing.gate,
            f"{timing.num_tokens:,}",
            f"{timing.tokens_per_s / 1e6:,.1f}",
            f"{timing.gigabytes_per_s:.2f}",
            f"{timing.share_of_copy:.0%}",
        )
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print, and store as JSON where asked."""
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(prog="python -m gates.benchmark", description="Throughput of the gate functions.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[65_536, 1_048_576], help="tokens, one or more sizes")
    parser.add_argument("--repeats", type=int, default=7, help="samples a timing; the median counts")
    parser.add_argument("--device", default=default_device, help=f"torch device (default here: {default_device})")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the timings to this file")
    options = parser.parse_args(arguments)
    if min(options.sizes) < 1 or options.repeats < 1:
        parser.error(f"--sizes {options.sizes} --repeats {options.repeats}: all must be at least 1")
    timings = benchmark_gates(options.sizes, options.repeats, options.device)
    print_timings(timings, Console())
    if options.json:
        rows = [asdict(timing) | {"share_of_copy": timing.share_of_copy} for timing in timings]
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
