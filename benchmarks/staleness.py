"""`python -m benchmarks.staleness`: cost in samples of training on completions four versions old.

The public command trains the arithmetic experiment at a constant learning rate, synchronously and with max_staleness=4
and decoupled correction. The cost is the number of samples until the mean reward of five iterations in a row is 1.7.
Whether completions are four versions old depends on the machine, so the staleness of each run is reported too.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median

from rich.console import Console

from benchmarks.figures import benchmark_parser, curves_panel, figures_at, print_table, write_figures
from benchmarks.public_run import PLAIN, run_seconds
from configs.loading import load_config
from orchestration.pages.figures import save_panels
from orchestration.terminal.console import print_line

REWARD, WINDOW = 1.7, 5  # reward to reach in points, and number of iterations of its mean
MAX_STALENESS = 4
TARGET = 1.2  # target of the stale run's samples over those of the synchronous run
FULL = 0.9  # share of MAX_STALENESS from which on a mean staleness counts as the full one
COMMON = (*PLAIN, "learner.lr_schedule=constant")
SYNCHRONOUS, STALE = "max_staleness=0", f"max_staleness={MAX_STALENESS}"
MODES = (SYNCHRONOUS, STALE)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRun:
    """One run of one mode and seed, iteration by iteration."""

    mode: str  # one of MODES
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
    ends = range(window, len(rewards) + 1)
    reached = (end for end in ends if fmean(rewards[end - window : end]) >= threshold)
    return next((end * samples_per_iteration for end in reached), None)


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
    own = ("learner.old_logprobs=recompute", f"objective.correction={correction}") if mode == STALE else ()
    settings = [*COMMON, mode, f"seed={seed}", f"num_iterations={num_iterations}", *extra, *own]
    rows, _ = run_seconds(settings)
    return TrainedRun(
        mode=mode,
        seed=seed,
        samples_per_iteration=load_config(settings).rollout.completions_per_iteration,
        reward=tuple(row["reward/mean"] for row in rows),
        staleness=tuple(row["staleness/mean"] for row in rows),
        staleness_max=max(row["staleness/max"] for row in rows),
        idle_learner=fmean(row["idle/learner"] for row in rows),
        idle_engines=fmean(row["idle/engines"] for row in rows),
    )


def main() -> None:
    parser = benchmark_parser("staleness", __doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds (default 0 1 2)")
    parser.add_argument("--iterations", type=int, default=60, help="iterations of each run (default 60)")
    parser.add_argument("--settings", nargs="+", default=[], help="settings of all runs, as in learner.lr=1e-4")
    parser.add_argument(
        "--correction", choices=("tis", "mis"), default="tis", help="correction of the stale run (default tis)"
    )
    arguments = parser.parse_args()
    if arguments.iterations < WINDOW:
        parser.error(f"--iterations must be at least {WINDOW}, over which the reward is averaged")
    target, correction, extra = arguments.json, arguments.correction, arguments.settings
    runs: list[TrainedRun] = []
    with figures_at(target) as console:
        for seed in arguments.seeds:
            for mode in MODES:
                console.print(f"training {mode}, seed {seed} ...")
                runs.append(train(mode, seed, correction=correction, num_iterations=arguments.iterations, extra=extra))
                figures = [asdict(each) | {"samples_to_reward": each.samples_to_reward} for each in runs]
                write_figures(target, {"correction": correction, "settings": extra, "runs": figures})
        show(console, runs)
        panels = []
        for field, unit in (("reward", "points"), ("staleness", "policy versions")):
            by_mode = {mode: [getattr(run, field) for run in runs if run.mode == mode] for mode in MODES}
            panels.append(curves_panel(f"{field}/mean", unit, by_mode))
        save_panels(panels, target.with_suffix(".png"), title="Mean over the seeds, band from minimum to maximum")
        print_line(console, f"curves in {target.with_suffix('.png')}")


def show(console: Console, runs: Sequence[TrainedRun]) -> None:
    """Prints one row a run, then the verdict on the ratios."""
    synchronous = {run.seed: run.samples_to_reward for run in runs if run.mode == SYNCHRONOUS}
    ratios: list[float | None] = []
    rows = []
    for run in runs:
        samples, ratio_text, full_text = run.samples_to_reward, "", ""
        if run.mode == STALE:
            num_samples = run.samples_per_iteration * len(run.reward)
            ratios.append(ratio := sample_ratio(samples, synchronous[run.seed], num_samples=num_samples))
            ratio_text, full_text = "not known" if ratio is None else f"{ratio:.2f}", f"{run.full_share:.0%}"
        reached = "not reached" if samples is None else f"{samples:,}"
        staleness = (f"{fmean(run.staleness):.2f}", f"{run.staleness_max:.0f}", full_text)
        idle = (f"{run.idle_learner:.0%}", f"{run.idle_engines:.0%}")
        rows.append((run.mode, str(run.seed), reached, ratio_text, *staleness, *idle))
    columns = ("run", "seed", "samples", "ratio", "staleness", "max", "full", "idle learner", "engines")
    print_table(console, f"Samples until the reward is {REWARD:g} ({WINDOW} iterations)", columns, rows, text=("run",))
    full = f"{FULL * MAX_STALENESS:g}"
    print_line(console, f"full: iterations whose completions were on average {full} or more versions old")
    print_line(console, verdict(ratios))


def verdict(ratios: Sequence[float | None]) -> str:
    """One line: the median ratio with its spread and the target, or that the runs were too short."""
    known = [ratio for ratio in ratios if ratio is not None]
    if len(known) < len(ratios):
        return f"target {TARGET:g}: not decided, {len(ratios) - len(known)} of {len(ratios)} seeds need more iterations"
    word = "met" if median(known) <= TARGET else "missed"
    return f"ratio {median(known):.2f} ({min(known):.2f} - {max(known):.2f}), target {TARGET:g}: {word}"


if __name__ == "__main__":
    main()
