"""`python -m tests.chaos --minutes 10 --seed 0`: kills, stops and damages at random while a real run trains on a CPU.

Rounds follow each other until the time is over, synchronous ones and ones two versions ahead in turn, each with two
engines, two learner ranks and two graders. A killed driver is started again with resume=true; everything else the run
must survive by itself. Afterwards every position of the prompt stream must have been trained exactly once and in order,
no token older than the bound, nothing left behind, and a synchronous run must equal an undisturbed one bit for bit.
The same seed gives the same plan of events by iteration. Exit status: 0 all promises kept, 1 one was broken.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tests.chaos.plan import TARGETS, Plan, Target, plan_of
from tests.chaos.rounds import Round, RoundResult, Tell

CHECKPOINT_EVERY = 3
NUM_ITERATIONS = 24


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="no round begins later than this (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the plans (default 0)")
    parser.add_argument("--iterations", type=int, default=NUM_ITERATIONS, help=f"of a run (default {NUM_ITERATIONS})")
    parser.add_argument("--rounds", type=int, help="most rounds; by default as many as there is time for")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=TARGETS, help="who is struck (default all)")
    parser.add_argument("--keep", type=Path, help="folder for the runs; by default a temporary one")
    parser.add_argument("settings", nargs="*", help="further settings of the runs, key=value")
    given = parser.parse_args(arguments)
    with TemporaryDirectory(prefix="chaos-") as temporary:
        results = play(
            given.keep or Path(temporary),
            seed=given.seed,
            minutes=given.minutes,
            num_iterations=given.iterations,
            most_rounds=given.rounds,
            targets=given.targets,
            settings=given.settings,
            tell=lambda line: print(line, flush=True),
        )
    return 1 if any(result.broken for result in results) else 0


def play(
    folder: Path,
    *,
    seed: int,
    minutes: float,
    num_iterations: int = NUM_ITERATIONS,
    most_rounds: int | None = None,
    targets: Sequence[Target] = TARGETS,
    settings: Sequence[str] = (),
    tell: Tell,
) -> list[RoundResult]:
    """Plays an undisturbed run and then rounds, until the minutes are over; tells what happens line by line."""
    folder.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60.0 * minutes
    fixed = [f"checkpoint.every={CHECKPOINT_EVERY}", *settings]

    def play_one(plan: Plan, name: str, undisturbed: Path | None) -> RoundResult:
        one = Round(plan, folder / name, fixed, num_iterations=num_iterations, tell=tell)
        result = one.play(undisturbed=undisturbed)
        for line in result.broken:
            tell(f"BROKEN: {line}")
        tell(f"{name}: {'broken' if result.broken else 'well'}, {len(result.struck)} events, {result.seconds:.0f} s")
        return result

    tell("the undisturbed run")
    results = [play_one(Plan(round=-1, max_staleness=0, events=()), "undisturbed", None)]
    while time.monotonic() < end and not results[0].broken and (most_rounds is None or len(results) <= most_rounds):
        number = len(results) - 1
        plan = plan_of(seed, number, num_iterations=num_iterations, checkpoint_every=CHECKPOINT_EVERY, targets=targets)
        tell(f"round {number}, seed {seed}, max_staleness={plan.max_staleness}; planned:")
        for event in plan.events:
            tell(f"          after {event.iteration} iterations and {event.delay_s:.2f} s: {event.describe()}")
        is_synchronous = plan.max_staleness == 0
        results.append(play_one(plan, f"round-{number}", folder / "undisturbed" if is_synchronous else None))
    for line in summary(results):
        tell(line)
    return results


def summary(results: Sequence[RoundResult]) -> list[str]:
    """The time from each kind of event to the next iteration, and the verdict."""
    recovered = defaultdict(list)
    for result in results:
        for struck in result.struck:
            if struck.recovered_s is not None:
                recovered[struck.event.kind, struck.event.target].append(struck.recovered_s)
    lines = ["seconds from an event to the end of the next iteration, median (range):"]
    for (kind, target), seconds in sorted(recovered.items()):
        spread = f"({min(seconds):.1f} - {max(seconds):.1f})"
        lines.append(f"  {kind:7} {target:13} {len(seconds):3} times  {median(seconds):6.1f} {spread}")
    num_events = sum(len(result.struck) for result in results)
    num_broken = sum(bool(result.broken) for result in results)
    verdict = "all promises kept" if not num_broken else f"{num_broken} runs broke a promise"
    return [*lines, f"{len(results) - 1} rounds, {num_events} events: {verdict}"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
