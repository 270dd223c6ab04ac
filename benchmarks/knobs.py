"""`python -m benchmarks.knobs`: effects of the settings of docs/throughput.md, by short runs of the command in turn.

Runs that measure time have a learning rate of practically 0, so that lengths do not change. Dynamic sampling affects
learning, so its runs train the arithmetic experiment as it is. The runs of one repeat share a seed.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median

from rich.console import Console

from benchmarks.parts import BATCH
from benchmarks.public_run import PLAIN, mean_of, run_rows
from benchmarks.result_files import benchmark_parser, figures_at, write_figures
from benchmarks.tables import new_table, print_table
from benchmarks.wordy_model import WORDY_SETTINGS, ensure_wordy_model
from orchestration.journal.json_lines import Row

WARMUP_ITERATIONS = 5
COOL_DOWN = 4  # number of last iterations not counted; at a staleness of 4 they have nothing left to generate
REWARD_WINDOW = 5  # number of last iterations whose reward is reported
STILL = ("learner.lr=1e-12", "learner.lr_schedule=constant")
OVERLAPPED = (*STILL, "max_staleness=2")
# Name in the figures, heading of the table and format; means over the counted iterations.
COLUMNS = (
    ("time/iteration_s", "s an\niteration", "{:.3g}"),
    ("idle/learner", "idle\nlearner", "{:.0%}"),
    ("idle/engines", "idle\nengines", "{:.0%}"),
    ("engine/paused_share", "paused", "{:.1%}"),
    ("staleness/mean", "stale-\nness", "{:.2f}"),
    ("group/zero_variance_share", "equal\nrewards", "{:.0%}"),
    ("group/replaced", "re-\nplaced", "{:.1f}"),
    ("reward/last", "reward", "{:.2f}"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Knob:
    """One setting, its values, and the common settings of its runs."""

    name: str
    values: tuple[str, ...]  # values to measure; the others are compared with the first
    num_iterations: int
    settings: tuple[str, ...] = ()
    is_wordy: bool = False  # True for completions of 16 to 512 tokens

    def run_settings(self, value: str, *, seed: int, num_iterations: int) -> list[str]:
        """Settings of a run as on the command line; builds the wordy model if the knob needs it."""
        wordy = (*WORDY_SETTINGS, f"model.path={ensure_wordy_model()}") if self.is_wordy else ()
        return [
            *PLAIN,
            *wordy,
            *self.settings,
            f"{self.name}={value}",
            f"seed={seed}",
            f"num_iterations={num_iterations}",
        ]


KNOBS = (
    Knob(name="max_staleness", values=("0", "1", "2", "4"), num_iterations=25, settings=(*BATCH, *STILL)),
    Knob(name="publish.inflight", values=("true", "false"), num_iterations=20, settings=OVERLAPPED, is_wordy=True),
    Knob(name="rollout.dynamic_sampling", values=("false", "true"), num_iterations=80),
    Knob(
        name="rollout.batch_order", values=("prompt", "finished"), num_iterations=20, settings=OVERLAPPED, is_wordy=True
    ),
)


def run_means(rows: Sequence[Row]) -> dict[str, float]:
    """Means of one run over its iterations without the first and the last ones; the reward is that of the last ones.

    Metrics that the run does not have are left out.
    """
    counted = rows[WARMUP_ITERATIONS:-COOL_DOWN]
    assert counted, f"{len(rows)} iterations are too few to count any"
    found = {name: mean_of(counted, name) for name, _, _ in COLUMNS}
    found["reward/last"] = fmean(row["reward/mean"] for row in rows[-REWARD_WINDOW:])
    return {name: value for name, value in found.items() if value is not None}


def measure_knob(knob: Knob, *, repeats: int, num_iterations: int) -> dict[str, list[dict[str, float]]]:
    """run_means by value, one run for each repeat; within a repeat the values are run in turn."""
    found: dict[str, list[dict[str, float]]] = {value: [] for value in knob.values}
    for seed in range(repeats):
        for value in knob.values:
            rows = run_rows(knob.run_settings(value, seed=seed, num_iterations=num_iterations))
            found[value].append(run_means(rows))
    return found


def time_ratios(runs: Sequence[dict[str, float]], base: Sequence[dict[str, float]]) -> list[float]:
    """Ratios of an iteration's seconds to those of the base's run of the same repeat."""
    name = "time/iteration_s"
    return [run[name] / other[name] for run, other in zip(runs, base, strict=True)]


def main() -> None:
    parser = benchmark_parser("knobs", __doc__, name="knobs")
    names = [knob.name for knob in KNOBS]
    least = WARMUP_ITERATIONS + COOL_DOWN + 1
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each value (default 3)")
    parser.add_argument(
        "--iterations", type=int, help=f"iterations of each run, at least {least} (default: 20 to 80, by knob)"
    )
    arguments = parser.parse_args()
    if arguments.repeats < 1 or (arguments.iterations is not None and arguments.iterations < least):
        parser.error(f"--repeats must be at least 1 and --iterations at least {least}")
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    with figures_at(arguments.json, name="knobs") as (console, target):
        chosen = [knob for knob in KNOBS if knob.name in arguments.only]
        for knob in chosen:
            console.print(f"measuring {knob.name} ({len(knob.values)} x {arguments.repeats} runs) ...")
            number = arguments.iterations or knob.num_iterations
            found[knob.name] = measure_knob(knob, repeats=arguments.repeats, num_iterations=number)
            write_figures(target, {"runs": found, "knobs": [asdict(each) for each in chosen]})
        show(console, found)


def show(console: Console, found: dict[str, dict[str, list[dict[str, float]]]]) -> None:
    """Prints one row a value: medians over the repeats, and the time over that of the knob's first value."""
    time_s, *others = [heading for _, heading, _ in COLUMNS]
    columns = ("setting", time_s, "ratio", "min - max", *others)
    table = new_table("Knobs: medians over the repeats", *columns, text=("setting",))
    for knob, by_value in found.items():
        base = next(iter(by_value.values()))
        table.add_row(knob)
        for value, runs in by_value.items():
            ratios = time_ratios(runs, base)
            seconds, *others = [_cell(runs, name, form) for name, _, form in COLUMNS]
            spread = f"{min(ratios):.2f} - {max(ratios):.2f}"
            table.add_row(f"  {value}", seconds, f"{median(ratios):.2f}", spread, *others)
    print_table(console, table)


def _cell(runs: Sequence[dict[str, float]], name: str, form: str) -> str:
    values = [run[name] for run in runs if name in run]
    return form.format(median(values)) if values else ""


if __name__ == "__main__":
    main()
