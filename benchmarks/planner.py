"""The planner's predictions against short real runs of configurations that it was not calibrated on.

`.venv/bin/python -m benchmarks.planner [--calibration FILE]`: measures this machine first unless a file is given, then
prints predicted / measured iteration time, on an otherwise idle machine. Lengths do not drift: the learning rate is 0
but for rounding, so that what is predicted is time, not learning.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from benchmarks.figures import benchmark_parser, figures_at, print_table, write_figures
from configs.loading import load_config
from orchestration.plan.measurements import calibrate, measure_run
from orchestration.plan.session import basis_of
from orchestration.plan.simulation import predict
from orchestration.terminal.console import print_line

STAGES = ("iteration", "generate", "wait", "update", "publish")  # names of the run's timers
TARGET = 0.15  # wanted |predicted / measured - 1|
ALWAYS = ("learner.lr=1e-12", "eval.num_prompts=1", "journal.tensorboard=false", "journal.progress=false")
# What differs from the calibrated run of 16 prompts x 8, 2 minibatches, one engine, synchronous.
CONFIGURATIONS = {
    "8 x 4": ("rollout.prompts_per_iteration=8", "rollout.completions_per_prompt=4"),
    "32 x 12": ("rollout.prompts_per_iteration=32", "rollout.completions_per_prompt=12"),
    "24 x 8, at most 12 tokens": ("rollout.prompts_per_iteration=24", "rollout.max_new_tokens=12"),
    "16 x 8, 4 minibatches, 2 epochs": ("learner.num_minibatches=4", "learner.num_epochs=2"),
    "32 x 8, 2 engines": ("rollout.prompts_per_iteration=32", "rollout.num_engines=2"),
    "24 x 8, staleness 1": ("rollout.prompts_per_iteration=24", "max_staleness=1"),
}


def main() -> None:
    parser = benchmark_parser("planner", __doc__)
    parser.add_argument("--calibration", help="a file of `orchestration.plan --calibrate`; left out, measured first")
    parser.add_argument("--iterations", type=int, default=15, help="counted iterations of each run (default 15)")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        calibration = arguments.calibration
        if calibration is None:
            print_line(console := Console(), "measuring the machine ...")
            calibration = str(calibrate(load_config(ALWAYS), str(Path(folder) / "calibration.json"), console))
        with figures_at(arguments.json) as console:
            figures = {
                name: _compare(settings, calibration, num_iterations=arguments.iterations)
                for name, settings in CONFIGURATIONS.items()
            }
            columns = ("configuration", *STAGES, "ratio", "")
            print_table(console, "Predicted / measured, ms", columns, _rows(figures), text=("configuration",))
            kept = json.loads(Path(calibration).read_text(encoding="utf-8"))
            write_figures(arguments.json, {"calibration": kept, "figures": figures})


def _compare(settings: tuple[str, ...], calibration: str, *, num_iterations: int) -> dict[str, float]:
    """Seconds, predicted and measured, of an iteration and of its stages."""
    config = load_config([*ALWAYS, *settings])
    scenario, costs_of, _ = basis_of(config, calibration=calibration)
    workload = scenario.workload()
    times = predict(workload, costs_of(workload))
    measured = measure_run(config, num_iterations=num_iterations)
    found = {f"predicted {stage}": getattr(times, f"{stage}_s") for stage in STAGES}
    found |= {f"measured {stage}": measured[f"time/{stage}_s"] for stage in STAGES}
    return found | {"ratio": found["predicted iteration"] / found["measured iteration"]}


def _rows(figures: dict[str, dict[str, float]]) -> Iterator[tuple[str, ...]]:
    for name, found in figures.items():
        pairs = [f"{found[f'predicted {stage}'] * 1e3:.0f}/{found[f'measured {stage}'] * 1e3:.0f}" for stage in STAGES]
        is_met = abs(found["ratio"] - 1.0) <= TARGET
        yield name, *pairs, f"{found['ratio']:.2f}", "met" if is_met else "missed"


if __name__ == "__main__":
    main()
