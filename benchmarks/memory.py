"""`python -m benchmarks.memory`: memory of every kind of process over a long run.

A run of the public command goes on while this process reads, after every few iterations, how much memory each process
has taken (anonymous memory: heaps, stacks, buffers) and how much is resident in all (RSS, with libraries and files). A
line through the values after the first iterations says how much an iteration adds. Other work on the machine changes
the duration, not the figures.
"""

import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil

from benchmarks.figures import benchmark_parser, figures_at, print_table, write_figures
from benchmarks.peer_environment import ROOT
from orchestration.journal.run_files import METRICS_FILE
from orchestration.pages.figures import Line, Panel, save_panels
from orchestration.study.schedule import RowCounter

KINDS = {  # what a process's command line contains, by its name in the table
    "driver": "orchestration/run.py",
    "engine": "ray::RolloutEngine",
    "rank": "ray::RankProcess",
    "grader": "ray::GraderWorker",
    "grader's child": "rollout.rewards.grader_child",
    "GCS": "gcs_server",
    "raylet": "raylet/raylet",
    "Ray's agents": "ray/dashboard/agent.py",
}
SETTINGS = (
    "checkpoint.every=50",
    "eval.num_prompts=16",
    "learner.lr=1e-12",
    "learner.lr_schedule=constant",
    "rollout.kv_cache_gib=0.0625",  # an engine takes the cache's pages when it first writes them: here in the warm-up
)
WARM_UP = 100  # iterations in which caches and windows fill
TARGET_KIB = 10.0  # growth in an iteration
POLL_S = 0.05
KIB, MIB = 2**10, 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Memory of the processes of one kind together."""

    iteration: int
    taken_bytes: int  # anonymous memory
    rss_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Growth:
    """The straight line through the samples of one kind after WARM_UP iterations."""

    kind: str
    first_mib: float  # taken at WARM_UP
    last_mib: float  # taken at the end
    kib_per_iteration: float  # slope of what is taken
    error_kib: float  # standard error of the slope
    second_half_kib: float  # slope over the second half
    rss_kib_per_iteration: float


def main() -> None:
    parser = benchmark_parser("memory", __doc__)
    parser.add_argument("--iterations", type=int, default=300, help="iterations of the run (default 300)")
    parser.add_argument("--every", type=int, default=2, help="iterations between two samples (default 2)")
    parser.add_argument("--picture", type=Path, help="PNG file for the curves; none by default")
    parser.add_argument("settings", nargs="*", help="settings of the run, key=value")
    arguments = parser.parse_args()
    if arguments.iterations < 2 * WARM_UP:
        parser.error(f"--iterations {arguments.iterations}: must be at least {2 * WARM_UP}, twice the warm-up")
    with figures_at(arguments.json) as console:
        settings = [f"num_iterations={arguments.iterations}", *SETTINGS, *arguments.settings]
        samples = sample_run(settings, every=arguments.every)
        growths = [growth(kind, of_kind) for kind, of_kind in samples.items()]
        rows = [
            (
                one.kind,
                f"{one.first_mib:,.1f}",
                f"{one.last_mib:,.1f}",
                f"{one.kib_per_iteration:.1f} ± {one.error_kib:.1f}",
                f"{one.second_half_kib:.1f}",
                f"{one.rss_kib_per_iteration:.1f}",
                "met" if one.kib_per_iteration < TARGET_KIB else "missed",
            )
            for one in growths
        ]
        title = f"Memory of a run of {arguments.iterations} iterations; growth after the first {WARM_UP}"
        columns = ("process", "first, MiB", "last, MiB", "KiB/iteration", "2nd half", "RSS", f"< {TARGET_KIB:g} KiB")
        print_table(console, title, columns, rows, text=columns[:1])
        figures = {"growth": [asdict(one) for one in growths]}
        curves = {kind: [asdict(sample) for sample in of_kind] for kind, of_kind in samples.items()}
        write_figures(arguments.json, figures | {"settings": settings, "samples": curves})
        if arguments.picture:
            draw(samples, arguments.picture)


def sample_run(settings: Sequence[str], *, every: int) -> dict[str, list[Sample]]:
    """Samples by kind of process while `python orchestration/run.py <settings>` runs; RuntimeError if it fails."""
    samples: dict[str, list[Sample]] = defaultdict(list)
    with TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        command = [sys.executable, "orchestration/run.py", *settings, f"run_dir={run_dir}"]
        output = Path(folder) / "output.txt"  # a pipe that nobody reads would stop the run
        with output.open("w") as file:
            run = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        rows, due = RowCounter(run_dir / METRICS_FILE), every
        try:
            while run.poll() is None:
                if (iteration := rows.count()) >= due:
                    due = iteration + every
                    for kind, (taken, rss) in memory_by_kind(psutil.Process(run.pid)).items():
                        samples[kind].append(Sample(iteration=iteration, taken_bytes=taken, rss_bytes=rss))
                time.sleep(POLL_S)
        finally:
            run.send_signal(signal.SIGINT)  # does nothing where it has ended
            run.wait()
        if run.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed: {' '.join(output.read_text().split()[-80:])}")
    return {kind: samples[kind] for kind in KINDS if kind in samples}


def memory_by_kind(driver: psutil.Process) -> dict[str, tuple[int, int]]:
    """Anonymous memory and RSS in bytes, summed over the processes of each kind: the driver and its descendants."""
    found: dict[str, tuple[int, int]] = {}
    for process in _family(driver):
        try:
            command = " ".join(process.cmdline())
            # The file has sums; psutil adds up a thousand mappings, while which the process is stopped.
            sums = _sums_of(Path(f"/proc/{process.pid}/smaps_rollup").read_text())
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        kind = next((kind for kind, mark in KINDS.items() if mark in command), None)
        if kind is not None:
            taken, rss = found.get(kind, (0, 0))
            found[kind] = (taken + sums["Anonymous"], rss + sums["Rss"])
    return found


def _family(driver: psutil.Process) -> Iterator[psutil.Process]:
    try:
        yield from (driver, *driver.children(recursive=True))
    except psutil.NoSuchProcess:
        return


def _sums_of(rollup: str) -> dict[str, int]:
    """Bytes by the names in the text of /proc/<pid>/smaps_rollup."""
    lines = [line.split() for line in rollup.splitlines()[1:]]
    return {name.rstrip(":"): int(number) * KIB for name, number, _ in lines}


def growth(kind: str, samples: Sequence[Sample]) -> Growth:
    """The line through the samples after WARM_UP iterations."""
    settled = [sample for sample in samples if sample.iteration >= WARM_UP]
    if len(settled) < 4:
        raise ValueError(f"{kind}: {len(settled)} samples after {WARM_UP} iterations; sample more often or run longer")
    slope, error = _slope(settled, "taken_bytes")
    return Growth(
        kind=kind,
        first_mib=settled[0].taken_bytes / MIB,
        last_mib=settled[-1].taken_bytes / MIB,
        kib_per_iteration=slope,
        error_kib=error,
        second_half_kib=_slope(settled[len(settled) // 2 :], "taken_bytes")[0],
        rss_kib_per_iteration=_slope(settled, "rss_bytes")[0],
    )


def _slope(samples: Sequence[Sample], field: str) -> tuple[float, float]:
    """Slope and its standard error by least squares, KiB an iteration."""
    x = np.array([sample.iteration for sample in samples], dtype=np.float64)
    y = np.array([getattr(sample, field) for sample in samples], dtype=np.float64) / KIB
    x -= x.mean()
    slope = float(x @ y / (x @ x))
    residual = y - y.mean() - slope * x
    return slope, float(np.sqrt(residual @ residual / max(1, len(x) - 2) / (x @ x)))


def draw(samples: Mapping[str, Sequence[Sample]], path: Path) -> None:
    """Draws what each kind has gained since WARM_UP iterations."""
    lines = []
    for place, (kind, of_kind) in enumerate(samples.items()):
        x = np.array([sample.iteration for sample in of_kind])
        y = np.array([sample.taken_bytes for sample in of_kind]) / MIB
        y = y - y[np.searchsorted(x, WARM_UP)]
        lines.append(Line(name=kind, style=place // 4, x=x, y=y, low=y, high=y))
    panel = Panel(title="Memory taken", unit=f"MiB, against iteration {WARM_UP}", log=False, lines=tuple(lines))
    save_panels([panel], path, title="Memory of a run's processes", columns=1, shares_legend=False)


if __name__ == "__main__":
    main()
