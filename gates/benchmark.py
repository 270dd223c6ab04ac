"""`python -m gates.benchmark`: speed of the gated loss by gate and implementation, against the machine's copy.

In: sizes, repeats and a device. Out: one GateTiming for each gate, size, implementation and phase. The implementations
of one gate are measured in turn, so that a drift of the machine's speed affects all alike. This module times the loss
alone, on random log-ratios near 0, and knows nothing of models; benchmark_report.py reports the figures.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from gates.benchmark_report import (
    PLOT_SUFFIXES,
    REGRESSION,
    GateTiming,
    plot_timings,
    print_timings,
    read_timings,
    regressions,
    write_timings,
)
from gates.gate import Gate, built_in_gates
from gates.kernels import fused_loss, has_kernel
from gates.loss import LossFunction, reference_loss

DEFAULT_SIZES = tuple(2**exponent for exponent in (10, 14, 18, 22))
FULL_SIZES = tuple(2**exponent for exponent in range(10, 27))
COPY_BYTES = 64 * 2**20  # bytes read and written once each, more than the caches of usual machines hold
SHORTEST_SAMPLE_S = 0.02  # duration up to which a sample repeats the work, far above the clock's resolution

Work = Callable[[], object]


def benchmark_gates(
    sizes: Sequence[int], *, repeats: int, device: torch.device | str, compiled: bool = True, progress: bool = False
) -> list[GateTiming]:
    """Timings of every built-in gate at every size (tokens): medians over repeats, and peak extra memory.

    Implementations: eager is reference_loss and its autograd, compiled is torch.compile of eager, fused is fused_loss.
    """
    device = torch.device(device)
    source = torch.rand(COPY_BYTES // 4, device=device)
    copy: dict[str, Work] = {"copy": partial(torch.empty_like(source).copy_, source)}
    copy_gigabytes_per_s = 2 * COPY_BYTES / _median_seconds(copy, repeats, device)["copy"] / 1e9
    console = Console(stderr=True, quiet=not progress)
    timings: list[GateTiming] = []
    for num_tokens in sizes:
        columns = _columns(num_tokens, device)
        for name, gate in built_in_gates().items():
            console.print(f"measuring {name}, {num_tokens:,} tokens ...")
            functions = _implementations(gate, device, compiled=compiled)
            for phase in ("forward", "forward+backward"):
                works = {
                    implementation: _work(function, columns, gate, backward=phase != "forward")
                    for implementation, function in functions.items()
                }
                seconds = _median_seconds(works, repeats, device)
                timings.extend(
                    GateTiming(
                        gate=name,
                        implementation=implementation,
                        phase=phase,
                        num_tokens=num_tokens,
                        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
                        num_threads=torch.get_num_threads(),
                        seconds=seconds[implementation],
                        extra_bytes=peak_extra_bytes(work, device),
                        copy_gigabytes_per_s=copy_gigabytes_per_s,
                    )
                    for implementation, work in works.items()
                )
    return timings


def _columns(num_tokens: int, device: torch.device) -> dict[str, Tensor]:
    """Inputs of the loss: log-ratios of standard deviation 0.2, advantages of both signs, every token trained."""
    generator = torch.Generator(device).manual_seed(0)
    uniform = torch.rand(num_tokens, device=device, generator=generator)
    noise, advantages = (torch.randn(num_tokens, device=device, generator=generator) for _ in range(2))
    return {
        "logprobs": (0.2 * noise - 5.0 * uniform).requires_grad_(),
        "old_logprobs": -5.0 * uniform,
        "advantages": advantages,
        "loss_weights": torch.full_like(uniform, 1.0 / num_tokens),
    }


def _implementations(gate: Gate, device: torch.device, *, compiled: bool) -> dict[str, LossFunction]:
    functions: dict[str, LossFunction] = {"eager": reference_loss}
    if compiled:
        torch.compiler.reset()  # torch silently runs eagerly after the eighth shape of one function
        functions["compiled"] = torch.compile(reference_loss, dynamic=False)
    if has_kernel(gate, device):
        functions["fused"] = fused_loss
    return functions


def _work(function: LossFunction, columns: dict[str, Tensor], gate: Gate, *, backward: bool) -> Work:
    """The forward pass as in training, ready for a backward pass, followed by the backward pass if asked for."""

    def forward_and_backward() -> object:
        out = function(**columns, gate=gate)  # keeps the metrics, as training does
        return out, torch.autograd.grad(out.loss, columns["logprobs"])

    return forward_and_backward if backward else partial(function, **columns, gate=gate)


def _median_seconds(works: dict[str, Work], repeats: int, device: torch.device) -> dict[str, float]:
    """Median duration of one call of each work; the works are sampled in turn."""
    calls = {}
    for name, work in works.items():
        call_seconds(work, 2, device)  # compiles, and warms up allocator and caches
        calls[name] = max(1, round(SHORTEST_SAMPLE_S / call_seconds(work, 1, device)))
    samples = [{name: call_seconds(work, calls[name], device) for name, work in works.items()} for _ in range(repeats)]
    return {name: statistics.median(sample[name] for sample in samples) for name in works}


def call_seconds(work: Work, calls: int, device: torch.device) -> float:
    """Mean duration of one call over several calls."""
    synchronize = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        work()
    synchronize()
    return (time.perf_counter() - start) / calls


def peak_extra_bytes(work: Work, device: torch.device) -> int:
    """Peak memory of one call above the memory before it, its results included."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise the profiler writes two lines to stderr at every use
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    results = profiler.profiler.kineto_results  # the profiler's own tables only sum up by operator
    events = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    return max(accumulate((num_bytes for _, num_bytes in events), initial=0))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: measures, prints, and stores if asked; returns 1 if --compare finds a regression, else 0."""
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(prog="python -m gates.benchmark", description="Throughput of the gated loss.")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--sizes", type=int, nargs="+", default=DEFAULT_SIZES, help="tokens (default 2^10 to 2^22)")
    sizes.add_argument("--full", action="store_true", help="every power of two from 2^10 to 2^26 tokens")
    parser.add_argument("--repeats", type=int, default=7, help="samples a timing; the median counts (default 7)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on a CPU (default 1)")
    parser.add_argument("--device", default=default_device, help=f"torch device (default here: {default_device})")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes long")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures to this file")
    drawn = f"draw the figures into this file ({', '.join(PLOT_SUFFIXES)})"
    parser.add_argument("--plot", type=Path, metavar="PATH", help=drawn)
    slower = f"exit with 1 if slower than in this file by more than {REGRESSION:.0%}%"
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help=slower)
    options = parser.parse_args(arguments)
    sizes_wanted = FULL_SIZES if options.full else options.sizes
    if min(*sizes_wanted, options.repeats, options.threads) < 1:
        given = f"--sizes {list(sizes_wanted)} --repeats {options.repeats} --threads {options.threads}"
        parser.error(f"{given}: all must be at least 1")
    if options.plot and options.plot.suffix not in PLOT_SUFFIXES:
        parser.error(f"--plot {options.plot}: must end with {', '.join(PLOT_SUFFIXES)}")
    if options.compare and not options.compare.is_file():
        parser.error(f"--compare {options.compare}: not a file")
    old = read_timings(options.compare) if options.compare else []  # read before measuring, which takes minutes
    torch.set_num_threads(options.threads)
    device, compiled = options.device, not options.no_compile
    timings = benchmark_gates(sizes_wanted, repeats=options.repeats, device=device, compiled=compiled, progress=True)
    console = Console()
    print_timings(timings, console)
    if options.json:
        write_timings(timings, options.json)
    if options.plot:
        plot_timings(timings, options.plot)
    found = regressions(old, timings) if options.compare else []
    for line in found:
        console.print(line, soft_wrap=True, highlight=False)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
