"""`python -m benchmarks.overlap`: how much generation and learning overlap.

Each repeat runs the public command once synchronously and once at each staleness, and measures each side alone on the
prompts of the counted iterations. The learning rate is practically 0, so that all of them sample the same text.

- Generation alone is the time from the first prompt of a batch to its last finished group, batch after batch, without
  learning or grading. Asynchronous engines go from one batch into the next, so a run with varied lengths may be faster.
- Learner alone is the time of making and loading the batch, all steps and the publish, without generation. Both sides
  need the publish; it is counted here only.
- An iteration is the wall clock from the beginning of one iteration to that of the next. It is a mean, because the
  durations of asynchronous iterations alternate.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from statistics import fmean, median

from rich.console import Console

from benchmarks.figures import benchmark_parser, figures_at, median_and_range, print_table, write_figures
from benchmarks.parts import BATCH, running_parts
from benchmarks.public_run import PLAIN, STILL, means_of, run_seconds
from benchmarks.wordy_model import WORDY_SETTINGS, ensure_wordy_model
from configs.loading import load_config
from orchestration.parts import Parts, training_sampling
from orchestration.plan.measurements import generate_groups, grade_groups, train_batch, training_prompts
from orchestration.terminal.console import print_line
from rollout.contract import Prompt
from rollout.tasks import build_task
from rollout.tasks.embedded_model import ensure_embedded_model

WARMUP_ITERATIONS = 5  # number of first iterations not counted, in which generation gets ahead
STALENESSES = (0, 1, 2)  # max_staleness of the runs; each side is measured alone after the first, synchronous run
SYNCHRONOUS_TARGET, ASYNCHRONOUS_TARGET = 1.1, 1.15  # ratios to the sum of the sides and to the longer side
TASKS = {"arithmetic": BATCH, "varied": (*BATCH, *WORDY_SETTINGS)}
FIXED = (*PLAIN, *STILL, "eval.every=0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeat:
    """Seconds of one batch in each run and on each side, means over the same batches."""

    generation_s: float
    learner_s: float
    iteration_s: dict[int, float]  # seconds of an iteration, by max_staleness
    tokens: dict[str, float]  # completion tokens a batch; must be equal, or the work was not the same
    means: dict[int, dict[str, float]]  # means of idle/* and staleness/mean, by max_staleness

    def ratio(self, max_staleness: int) -> float:
        """Seconds of an iteration over those without overhead: both sides if synchronous, else the longer side."""
        sides = (self.generation_s, self.learner_s)
        return self.iteration_s[max_staleness] / (sum(sides) if max_staleness == 0 else max(sides))

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"ratio": {max_staleness: self.ratio(max_staleness) for max_staleness in STALENESSES}}


def measure_task(name: str, *, repeats: int, number: int) -> Iterator[Repeat]:
    """Measures all runs of a task and both sides, repeat by repeat, on the prompts of `number` counted iterations."""
    model = ensure_wordy_model() if name == "varied" else ensure_embedded_model()
    synchronous = run_settings(name, model, max_staleness=0, number=number)
    config = load_config(synchronous)
    size = config.rollout.prompts_per_iteration
    prompts = training_prompts(config, build_task(config.task), model, (WARMUP_ITERATIONS + number) * size)
    for _ in range(repeats):
        iteration_s: dict[int, float] = {}
        tokens: dict[str, float] = {}
        means: dict[int, dict[str, float]] = {}
        for max_staleness in STALENESSES:
            settings = run_settings(name, model, max_staleness=max_staleness, number=number)
            iteration_s[max_staleness], found = _run(settings, number=number)
            tokens[f"max_staleness={max_staleness}"] = found.pop("tokens")
            means[max_staleness] = found
        with running_parts(*synchronous, model_path=model) as parts:
            sides = _measure_sides(parts, prompts[WARMUP_ITERATIONS * size :], number=number)
        generation_s, learner_s, tokens["alone"] = sides
        yield Repeat(
            generation_s=generation_s, learner_s=learner_s, iteration_s=iteration_s, tokens=tokens, means=means
        )


def run_settings(name: str, model: Path, *, max_staleness: int, number: int) -> list[str]:
    """Settings of one run. Its last iterations have nothing left to generate and are not counted."""
    total = WARMUP_ITERATIONS + number + max(STALENESSES) + 1
    own = (f"model.path={model}", f"max_staleness={max_staleness}", f"num_iterations={total}")
    return [*FIXED, *TASKS[name], *own]


def _run(settings: Sequence[str], *, number: int) -> tuple[float, dict[str, float]]:
    """Runs the public command; returns seconds of a counted iteration, and means over the counted iterations."""
    all_rows, all_seconds = run_seconds(settings)
    counted = slice(WARMUP_ITERATIONS, WARMUP_ITERATIONS + number)
    rows, completions = all_rows[counted], load_config(settings).rollout.completions_per_iteration
    means = means_of(rows, ("idle/learner", "idle/engines", "staleness/mean"))
    means["tokens"] = fmean(row["completion/length_mean"] for row in rows) * completions
    return fmean(all_seconds[counted]), means


def _measure_sides(parts: Parts, prompts: Sequence[Prompt], *, number: int) -> tuple[float, float, float]:
    """Measures each side alone: seconds of a batch and completion tokens of a batch."""
    versions, size = count(parts.config.num_iterations + 1), parts.config.rollout.prompts_per_iteration
    generated = [
        generate_groups(parts, prompts[first : first + size], training_sampling(parts.config), versions)
        for first in range(0, number * size, size)
    ]
    batches = [grade_groups(parts, refs)[1] for _, refs in generated]
    learner_s = 0.0
    for graded in batches:
        learner_s += sum(train_batch(parts, graded)) + parts.channel.publish(next(versions)).total_s
    num_tokens = sum(each.tokens.num_sampled for graded in batches for one in graded for each in one.group.completions)
    return sum(seconds for seconds, _ in generated) / number, learner_s / number, num_tokens / number


def main() -> None:
    parser = benchmark_parser("overlap", __doc__)
    parser.add_argument(
        "--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="default: both; varied: 16 to 512 tokens"
    )
    parser.add_argument("--repeats", type=int, default=5, help="repeats of all runs and both sides (default 5)")
    parser.add_argument("--iterations", type=int, default=10, help="counted iterations of each run (default 10)")
    arguments = parser.parse_args()
    if min(arguments.repeats, arguments.iterations) < 1:
        parser.error("--repeats and --iterations must be at least 1")
    figures: dict[str, object] = {"iterations": arguments.iterations}
    with figures_at(arguments.json) as console:
        for name in arguments.tasks:
            console.print(f"measuring {name} ({arguments.repeats} repeats) ...")
            repeats = list(measure_task(name, repeats=arguments.repeats, number=arguments.iterations))
            _print(console, name, repeats)
            figures[name] = [repeat.to_json() for repeat in repeats]
            write_figures(arguments.json, figures)


def _print(console: Console, name: str, repeats: Sequence[Repeat]) -> None:
    rows: list[tuple[str, ...]] = [
        ("generation alone", *median_and_range([repeat.generation_s for repeat in repeats], "{:.3g}")),
        ("learner alone", *median_and_range([repeat.learner_s for repeat in repeats], "{:.3g}")),
    ]
    labelled: dict[str, list[Mapping[str, float]]] = {}
    for max_staleness in STALENESSES:
        target, ideal = (SYNCHRONOUS_TARGET, "sum") if max_staleness == 0 else (ASYNCHRONOUS_TARGET, "longer")
        ratios, label = [repeat.ratio(max_staleness) for repeat in repeats], f"max_staleness={max_staleness}"
        seconds = median_and_range([repeat.iteration_s[max_staleness] for repeat in repeats], "{:.3g}")
        verdict = (f"{target:.2f}", "met" if median(ratios) <= target else "missed")
        rows.append((label, *seconds, ideal, *median_and_range(ratios, "{:.2f}"), *verdict))
        labelled[label] = [repeat.means[max_staleness] for repeat in repeats]
    labelled["completion tokens a batch"] = [repeat.tokens for repeat in repeats]
    columns = ("what", "seconds", "min - max", "of", "ratio", "min - max", "target", "")
    title = f"Overlap, {name}: seconds a batch, medians of {len(repeats)} repeats"
    print_table(console, title, columns, rows, text=("what", "of"))
    for label, found in labelled.items():
        medians = {name: median(each[name] for each in found) for name in found[0]}
        print_line(console, f"{label}: " + ", ".join(f"{name} {value:,.6g}" for name, value in medians.items()))


if __name__ == "__main__":
    main()
