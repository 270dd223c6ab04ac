"""`python -m benchmarks.knobs`: effects of the settings of docs/throughput.md, by short runs of the command in turn.

Runs that measure time have a learning rate of practically 0, so that lengths do not change. Dynamic sampling affects
learning, so its runs train the arithmetic experiment as it is. The runs of one repeat share a seed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median

from benchmarks.figures import benchmark_parser, figures_at, median_and_range, print_table, write_figures
from benchmarks.parts import BATCH
from benchmarks.public_run import PLAIN, STILL, means_of, run_seconds
from benchmarks.wordy_model import WORDY_SETTINGS, ensure_wordy_model
from orchestration.journal.json_lines import Row

WARMUP_ITERATIONS = 5
COOL_DOWN = 4  # number of last iterations not counted; at a staleness of 4 they have nothing left to generate
REWARD_WINDOW = 5  # number of last iterations whose reward is reported
OVERLAPPED = (*STILL, "max_staleness=2")
# Heading of the table and format, by name in the figures; means over the counted iterations.
COLUMNS = {
    "time/iteration_s": ("s an\niteration", "{:.3g}"),
    "idle/learner": ("idle\nlearner", "{:.0%}"),
    "idle/engines": ("idle\nengines", "{:.0%}"),
    "engine/paused_share": ("paused", "{:.1%}"),
    "staleness/mean": ("stale-\nness", "{:.2f}"),
    "group/zero_variance_share": ("equal\nrewards", "{:.0%}"),
    "group/replaced": ("re-\nplaced", "{:.1f}"),
    "reward/last": ("reward", "{:.2f}"),
}
Means = dict[str, float]  # the COLUMNS of one run


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
        own = (f"{self.name}={value}", f"seed={seed}", f"num_iterations={num_iterations}")
        return [*PLAIN, *wordy, *self.settings, *own]


KNOBS = (
    Knob(name="max_staleness", values=("0", "1", "2", "4"), num_iterations=25, settings=(*BATCH, *STILL)),
    Knob(name="publish.inflight", values=("true", "false"), num_iterations=20, settings=OVERLAPPED, is_wordy=True),
    Knob(name="rollout.dynamic_sampling", values=("false", "true"), num_iterations=80),
    Knob(
        name="rollout.batch_order", values=("prompt", "finished"), num_iterations=20, settings=OVERLAPPED, is_wordy=True
    ),
)


def run_means(rows: Sequence[Row]) -> Means:
    """Means of one run over its iterations without the first and the last ones; the reward is that of the last ones.

    Metrics that the run does not have are left out.
    """
    counted = rows[WARMUP_ITERATIONS:-COOL_DOWN]
    assert counted, f"{len(rows)} iterations are too few to count any"
    return means_of(counted, COLUMNS) | {"reward/last": fmean(row["reward/mean"] for row in rows[-REWARD_WINDOW:])}


def time_ratios(runs: Sequence[Means], base: Sequence[Means]) -> list[float]:
    """Ratios of an iteration's seconds to those of the base's run of the same repeat."""
    name = "time/iteration_s"
    return [run[name] / other[name] for run, other in zip(runs, base, strict=True)]


def main() -> None:
    parser = benchmark_parser("knobs", __doc__)
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
    chosen = [knob for knob in KNOBS if knob.name in arguments.only]
    found: dict[str, dict[str, list[Means]]] = {}  # means of each repeat, by knob and value
    with figures_at(arguments.json) as console:
        for knob in chosen:
            console.print(f"measuring {knob.name} ({len(knob.values)} x {arguments.repeats} runs) ...")
            found[knob.name] = {value: [] for value in knob.values}
            number = arguments.iterations or knob.num_iterations
            for seed in range(arguments.repeats):
                for value, runs in found[knob.name].items():
                    rows, _ = run_seconds(knob.run_settings(value, seed=seed, num_iterations=number))
                    runs.append(run_means(rows))
            write_figures(arguments.json, {"runs": found, "knobs": [asdict(each) for each in chosen]})
        seconds, *others = (heading for heading, _ in COLUMNS.values())
        columns = ("setting", seconds, "ratio", "min - max", *others)
        print_table(console, "Knobs: medians over the repeats", columns, _rows(found), text=("setting",))


def _rows(found: Mapping[str, Mapping[str, Sequence[Means]]]) -> Iterator[Sequence[str]]:
    """One row a value: medians over the repeats, and the time over that of the knob's first value."""
    for knob, by_value in found.items():
        yield (knob,)
        base = next(iter(by_value.values()))
        for value, runs in by_value.items():
            of_runs = {name: [run[name] for run in runs if name in run] for name in COLUMNS}
            seconds, *others = (
                form.format(median(of_runs[name])) if of_runs[name] else "" for name, (_, form) in COLUMNS.items()
            )
            yield f"  {value}", seconds, *median_and_range(time_ratios(runs, base), "{:.2f}"), *others


if __name__ == "__main__":
    main()
