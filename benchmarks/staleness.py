"""`python -m benchmarks.staleness`: cost in samples of training on completions four versions old.

The public command trains the arithmetic experiment at a constant learning rate, synchronously and with max_staleness=4
and decoupled correction. The cost is the number of samples until the mean reward of five iterations in a row is 1.7.
Whether completions are four versions old depends on the machine, so the staleness of each run is reported too.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median

import numpy as np
from rich.console import Console

from benchmarks.public_run import PLAIN, run_rows
from benchmarks.result_files import benchmark_parser, figures_at, write_figures
from benchmarks.tables import new_table, print_table
from configs.loading import load_config
from orchestration.journal.json_lines import Row
from orchestration.pages.figures import Line, Panel, save_panels
from orchestration.terminal.console import print_line

REWARD, WINDOW = 1.7, 5  # reward to reach in points, and number of iterations of its mean
MAX_STALENESS = 4
TARGET = 1.2  # target of the stale run's samples over those of the synchronous run
FULL = 0.9  # share of MAX_STALENESS from which on a mean staleness counts as the full one
COMMON = (*PLAIN, "learner.lr_schedule=constant", "journal.trace=false")
SYNCHRONOUS, STALE = "max_staleness=0", f"max_staleness={MAX_STALENESS}"
MODES = {SYNCHRONOUS: (), STALE: ("learner.old_logprobs=recompute",)}  # settings of each mode


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRun:
    """One run of one mode and seed, iteration by iteration."""

    mode: str  # key of MODES
    seed: int
    samples_per_iteration: int
    reward: tuple[float, ...]  # mean reward in points
    staleness: tuple[float, ...]  # mean staleness over the completions, policy versions
    staleness_max: float  # largest staleness of a completion
    idle_learner: float  # idle share of the learner, mean over the iterations
    idle_engines: float

    @property
    def samples_to_reward(self) -> int | None:
        """Completions trained on until the reward was reached; None if it was not."""
        return samples_to_reward(self.reward, samples_per_iteration=self.samples_per_iteration)

    @property
    def full_share(self) -> float:
        """Share of iterations with (nearly) the full staleness, among those that can have it."""
        return fmean(mean >= FULL * MAX_STALENESS for mean in self.staleness[MAX_STALENESS:])


def samples_to_reward(
    rewards: Sequence[float], *, samples_per_iteration: int, threshold: float = REWARD, window: int = WINDOW
) -> int | None:
    """Samples consumed when the mean of the last `window` iterations first reaches the threshold; None if never."""
    for end in range(window, len(rewards) + 1):
        if fmean(rewards[end - window : end]) >= threshold:
            return end * samples_per_iteration
    return None


def sample_ratio(stale: int | None, synchronous: int | None, *, num_samples: int) -> float | None:
    """Samples of the stale run over those of the synchronous run.

    If the stale run did not reach the reward, the ratio is infinity if all its num_samples already miss the target, and
    None if the runs were too short to decide.
    """
    if synchronous is None:
        return None
    if stale is not None:
        return stale / synchronous
    return float("inf") if num_samples >= TARGET * synchronous else None


def train(mode: str, seed: int, *, correction: str, num_iterations: int, extra: Sequence[str]) -> TrainedRun:
    """Trains with one run of the public command."""
    settings = [*COMMON, mode, *MODES[mode], f"seed={seed}", f"num_iterations={num_iterations}", *extra]
    if mode != SYNCHRONOUS:
        settings.append(f"objective.correction={correction}")
    rollout = load_config(settings).rollout
    rows = run_rows(settings)
    return TrainedRun(
        mode=mode,
        seed=seed,
        samples_per_iteration=rollout.completions_per_iteration,
        reward=_column(rows, "reward/mean"),
        staleness=_column(rows, "staleness/mean"),
        staleness_max=max(_column(rows, "staleness/max")),
        idle_learner=fmean(_column(rows, "idle/learner")),
        idle_engines=fmean(_column(rows, "idle/engines")),
    )


def _column(rows: Sequence[Row], name: str) -> tuple[float, ...]:
    return tuple(row[name] for row in rows)


def main() -> None:
    parser = benchmark_parser("staleness", __doc__, name="staleness")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds (default 0 1 2)")
    parser.add_argument("--iterations", type=int, default=60, help="iterations of each run (default 60)")
    parser.add_argument("--settings", nargs="+", default=[], help="settings of all runs, as in learner.lr=1e-4")
    parser.add_argument(
        "--correction", choices=("tis", "mis"), default="tis", help="correction of the stale run (default tis)"
    )
    arguments = parser.parse_args()
    if arguments.iterations < WINDOW:
        parser.error(f"--iterations must be at least {WINDOW}, over which the reward is averaged")
    with figures_at(arguments.json, name="staleness") as (console, target):
        runs: list[TrainedRun] = []
        for seed in arguments.seeds:
            for mode in MODES:
                console.print(f"training {mode}, seed {seed} ...")
                run = train(
                    mode,
                    seed,
                    correction=arguments.correction,
                    num_iterations=arguments.iterations,
                    extra=arguments.settings,
                )
                runs.append(run)
                figures = [asdict(each) | {"samples_to_reward": each.samples_to_reward} for each in runs]
                write_figures(
                    target, {"correction": arguments.correction, "settings": arguments.settings, "runs": figures}
                )
        show(console, runs)
        panels = [_panel(runs, "reward", "points"), _panel(runs, "staleness", "policy versions")]
        save_panels(panels, target.with_suffix(".png"), title="Mean over the seeds, band from minimum to maximum")
        print_line(console, f"curves in {target.with_suffix('.png')}")


def show(console: Console, runs: Sequence[TrainedRun]) -> None:
    """Prints one row a run, then the verdict on the ratios."""
    columns = ("run", "seed", "samples", "ratio", "staleness", "max", "full", "idle learner", "engines")
    table = new_table(f"Samples until the reward is {REWARD:g} ({WINDOW} iterations)", *columns, text=("run",))
    synchronous = {run.seed: run.samples_to_reward for run in runs if run.mode == SYNCHRONOUS}
    ratios: list[float | None] = []
    for run in runs:
        told = ""
        if run.mode != SYNCHRONOUS:
            num_samples = run.samples_per_iteration * len(run.reward)
            ratio = sample_ratio(run.samples_to_reward, synchronous[run.seed], num_samples=num_samples)
            ratios.append(ratio)
            told = "not known" if ratio is None else f"{ratio:.2f}"
        table.add_row(
            run.mode,
            str(run.seed),
            "not reached" if run.samples_to_reward is None else f"{run.samples_to_reward:,}",
            told,
            f"{fmean(run.staleness):.2f}",
            f"{run.staleness_max:.0f}",
            f"{run.full_share:.0%}" if run.mode != SYNCHRONOUS else "",
            f"{run.idle_learner:.0%}",
            f"{run.idle_engines:.0%}",
        )
    print_table(console, table)
    print_line(
        console, f"full: iterations whose completions were on average {FULL * MAX_STALENESS:g} or more versions old"
    )
    print_line(console, verdict(ratios))


def verdict(ratios: Sequence[float | None]) -> str:
    """One line: the median ratio with its spread and the target, or that the runs were too short."""
    known = [ratio for ratio in ratios if ratio is not None]
    if len(known) < len(ratios):
        return f"target {TARGET:g}: not decided, {len(ratios) - len(known)} of {len(ratios)} seeds need more iterations"
    word = "met" if median(known) <= TARGET else "missed"
    return f"ratio {median(known):.2f} ({min(known):.2f} - {max(known):.2f}), target {TARGET:g}: {word}"


def _panel(runs: Sequence[TrainedRun], field: str, unit: str) -> Panel:
    """Panel of a metric over the iterations, one line a mode."""
    lines = []
    for mode in MODES:
        of_seeds = np.array([getattr(run, field) for run in runs if run.mode == mode])  # [seeds, iterations]
        x, y = np.arange(1, of_seeds.shape[1] + 1), of_seeds.mean(axis=0)
        lines.append(Line(name=mode, style=0, x=x, y=y, low=of_seeds.min(axis=0), high=of_seeds.max(axis=0)))
    return Panel(title=f"{field}/mean", unit=unit, log=False, lines=tuple(lines))


if __name__ == "__main__":
    main()
