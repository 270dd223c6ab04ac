"""`python -m benchmarks.overlap`: how much of generation and learning goes on at the same time.

Each repeat runs the real loop once synchronously and once at each staleness, and measures each side alone on the very
prompts of the counted iterations. The learning rate is 0 but for rounding, so that all of them sample the same text.

- generation alone: from the first prompt of a batch to its last finished group, batch after batch; nobody learns or
  grades. Asynchronous engines go from one batch into the next instead, so where lengths vary a run may beat it.
- learner alone: making and loading the batch, all steps and the publish, which both sides need and which is counted
  here only; nobody generates.
- an iteration: wall clock from the begin of one to the begin of the next; a mean, because asynchronous ones alternate.
"""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from benchmarks.parts import BATCH
from benchmarks.public_run import PLAIN, mean_of
from benchmarks.result_files import result_path, write_figures
from benchmarks.tables import print_table
from benchmarks.wordy_model import WORDY_SETTINGS, ensure_wordy_model
from configs.loading import load_config
from configs.schema import RunConfig
from orchestration.checkpoint import CheckpointStore, RunState
from orchestration.cluster import Cluster, start_cluster
from orchestration.journal.entry import IterationEntry
from orchestration.journal.journal import Journal
from orchestration.journal.json_lines import read_rows
from orchestration.journal.run_files import METRICS_FILE
from orchestration.loop import iterate
from orchestration.parts import Parts, build_parts
from orchestration.plan.measurements import generate_groups, grade_groups, train_batch, training_prompts
from orchestration.terminal.console import print_line, redirect_output
from rollout.contract import Prompt, SamplingSpec
from rollout.tasks import build_task
from rollout.tasks.embedded_model import ensure_embedded_model

WARMUP_ITERATIONS = 5  # one at least must have filled what runs ahead
STALENESSES = (0, 1, 2)  # the first is the synchronous run, after which the sides are measured alone
SYNCHRONOUS_TARGET, ASYNCHRONOUS_TARGET = 1.1, 1.15  # of the sum, of the longer side
TASKS = {"arithmetic": BATCH, "varied": (*BATCH, *WORDY_SETTINGS)}
FIXED = (*PLAIN, "learner.lr=1e-12", "learner.lr_schedule=constant", "eval.every=0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeat:
    """Seconds of one batch, means over the same batches."""

    generation_s: float
    learner_s: float
    iteration_s: dict[int, float]  # by max_staleness
    tokens: dict[str, float]  # completion tokens a batch; equal, or the sides and runs did not do the same work
    means: dict[int, dict[str, float]]  # idle/* and staleness/mean, by max_staleness

    def ideal_s(self, max_staleness: int) -> float:
        """One side after the other, or the longer one alone."""
        sides = (self.generation_s, self.learner_s)
        return sum(sides) if max_staleness == 0 else max(sides)

    def ratio(self, max_staleness: int) -> float:
        """Iteration over the ideal."""
        return self.iteration_s[max_staleness] / self.ideal_s(max_staleness)

    def to_json(self) -> dict[str, object]:
        return asdict(self) | {"ratio": {max_staleness: self.ratio(max_staleness) for max_staleness in STALENESSES}}


class ClockedJournal(Journal):
    """Remembers when each iteration began."""

    starts_s: tuple[float, ...] = ()  # time.perf_counter()

    @contextmanager
    def iteration(self, iteration: int) -> Iterator[IterationEntry]:
        self.starts_s = (*self.starts_s, time.perf_counter())
        with super().iteration(iteration) as entry:
            yield entry


def seconds_per_iteration(starts_s: Sequence[float], *, first: int, number: int) -> float:
    """Mean over `number` iterations from `first` on; starts_s must go on to the begin of the one after them."""
    return (starts_s[first + number] - starts_s[first]) / number


def measure_repeat(
    config: RunConfig, cluster: Cluster, model: Path, prompts: Sequence[Prompt], *, number: int
) -> Repeat:
    """All runs and both sides once; engines and learner are started anew for each run.

    config: of the synchronous run. prompts: of its counted iterations, `number` of them.
    """
    iteration_s: dict[int, float] = {}
    tokens: dict[str, float] = {}
    means: dict[int, dict[str, float]] = {}
    for max_staleness in STALENESSES:
        run_config = config.model_copy(update={"max_staleness": max_staleness})
        task = build_task(config.task)
        with build_parts(run_config, cluster, model, task=task, start_iteration=0) as parts:
            iteration_s[max_staleness], found = _run(run_config, parts, number=number)
            tokens[f"max_staleness={max_staleness}"] = found.pop("tokens")
            means[max_staleness] = found
            if max_staleness == 0:
                generation_s, learner_s, tokens["alone"] = _measure_sides(parts, prompts, number=number)
    return Repeat(generation_s=generation_s, learner_s=learner_s, iteration_s=iteration_s, tokens=tokens, means=means)


def _run(config: RunConfig, parts: Parts, *, number: int) -> tuple[float, dict[str, float]]:
    """The real loop from begin to end; seconds of a counted iteration, and means of what its rows tell."""
    with TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder) / "checkpoints", keep=1)
        gate = config.gate.name
        journal = ClockedJournal(
            Path(folder), config=config.journal, num_iterations=config.num_iterations, gate_name=gate
        )
        with journal:
            iterate(config, parts, journal, store, RunState.fresh(seed=config.seed))
        rows = read_rows(Path(folder) / METRICS_FILE)[WARMUP_ITERATIONS : WARMUP_ITERATIONS + number]
    found = {name: mean_of(rows, name) for name in ("idle/learner", "idle/engines", "staleness/mean")}
    means = {name: value for name, value in found.items() if value is not None}
    means["tokens"] = fmean(row["completion/length_mean"] for row in rows) * _samples(config)
    return seconds_per_iteration(journal.starts_s, first=WARMUP_ITERATIONS, number=number), means


def _measure_sides(parts: Parts, prompts: Sequence[Prompt], *, number: int) -> tuple[float, float, float]:
    """Seconds of a batch of generation alone and of the learner alone, and completion tokens of a batch."""
    config = parts.config
    sampling = SamplingSpec(
        num_completions=config.rollout.completions_per_prompt,
        max_new_tokens=config.rollout.max_new_tokens,
        temperature=config.rollout.temperature,
        seed=config.seed,
    )
    versions, size = count(config.num_iterations + 1), config.rollout.prompts_per_iteration
    generated = [
        generate_groups(parts, prompts[first : first + size], sampling, versions)
        for first in range(0, number * size, size)
    ]
    batches = [grade_groups(parts, refs)[1] for _, refs in generated]
    learner_s = 0.0
    for graded in batches:
        load_s, update_s = train_batch(parts, graded)
        learner_s += load_s + update_s + parts.channel.publish(next(versions)).total_s
    num_tokens = sum(len(each.token_ids) for graded in batches for one in graded for each in one.group.completions)
    return sum(seconds for seconds, _ in generated) / number, learner_s / number, num_tokens / number


def _samples(config: RunConfig) -> int:
    return config.rollout.prompts_per_iteration * config.rollout.completions_per_prompt


def measure_task(name: str, *, repeats: int, number: int) -> list[Repeat]:
    """All repeats of one task, in one session of Ray."""
    model = ensure_wordy_model() if name == "varied" else ensure_embedded_model()
    # The last iterations have nothing left to generate: they end the run and are not counted.
    total = WARMUP_ITERATIONS + number + max(STALENESSES) + 1
    config = load_config([*FIXED, *TASKS[name], f"num_iterations={total}"])
    size = config.rollout.prompts_per_iteration
    counted = training_prompts(config, build_task(config.task), model, (WARMUP_ITERATIONS + number) * size)
    with start_cluster(config.cluster, config.rollout, config.learner) as cluster:
        return [
            measure_repeat(config, cluster, model, counted[WARMUP_ITERATIONS * size :], number=number)
            for _ in range(repeats)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.overlap", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="default: both; varied: 16 to 512 tokens"
    )
    parser.add_argument("--repeats", type=int, default=5, help="of all runs and both sides (default 5)")
    parser.add_argument("--iterations", type=int, default=10, help="counted iterations of each run (default 10)")
    parser.add_argument(
        "--json", type=Path, help="where the figures go (default benchmarks/results/overlap-<time>.json)"
    )
    arguments = parser.parse_args()
    if min(arguments.repeats, arguments.iterations) < 1:
        parser.error("--repeats and --iterations must be at least 1")
    target = result_path(arguments.json, name="overlap")
    figures: dict[str, object] = {"iterations": arguments.iterations}
    with redirect_output(target.with_suffix(".log")) as console:
        for name in arguments.tasks:
            console.print(f"measuring {name} ({arguments.repeats} repeats) ...")
            repeats = measure_task(name, repeats=arguments.repeats, number=arguments.iterations)
            _print(console, name, repeats)
            figures[name] = [repeat.to_json() for repeat in repeats]
            write_figures(target, figures)
        console.print(f"figures in {target}")


def _print(console: Console, name: str, repeats: Sequence[Repeat]) -> None:
    table = Table(
        title=f"Overlap, {name}: seconds a batch, medians of {len(repeats)} repeats", box=None, padding=(0, 1, 0, 0)
    )
    for column in ("what", "seconds", "min - max", "of", "ratio", "min - max", "target", ""):
        table.add_column(column, justify="left" if column in ("what", "of") else "right", no_wrap=True)
    table.add_row("generation alone", *_spread([repeat.generation_s for repeat in repeats], "{:.3g}"))
    table.add_row("learner alone", *_spread([repeat.learner_s for repeat in repeats], "{:.3g}"))
    for max_staleness in STALENESSES:
        target, ideal = (SYNCHRONOUS_TARGET, "sum") if max_staleness == 0 else (ASYNCHRONOUS_TARGET, "longer")
        ratios = [repeat.ratio(max_staleness) for repeat in repeats]
        table.add_row(
            f"max_staleness={max_staleness}",
            *_spread([repeat.iteration_s[max_staleness] for repeat in repeats], "{:.3g}"),
            ideal,
            *_spread(ratios, "{:.2f}"),
            f"{target:.2f}",
            "met" if median(ratios) <= target else "missed",
        )
    print_table(console, table)
    for max_staleness in STALENESSES:
        _print_medians(console, f"max_staleness={max_staleness}", [each.means[max_staleness] for each in repeats])
    _print_medians(console, "completion tokens a batch", [repeat.tokens for repeat in repeats])


def _spread(values: Sequence[float], form: str) -> tuple[str, str]:
    """Median, and least and most."""
    return form.format(median(values)), f"{form.format(min(values))} - {form.format(max(values))}"


def _print_medians(console: Console, label: str, repeats: Sequence[Mapping[str, float]]) -> None:
    found = {name: median(repeat[name] for repeat in repeats) for name in repeats[0]}
    print_line(console, f"{label}: " + ", ".join(f"{name} {value:,.6g}" for name, value in found.items()))


if __name__ == "__main__":
    main()
