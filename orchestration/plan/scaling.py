"""The best split of N devices between engines and learner ranks, for many N, and where scaling stops.

In: a Scenario and its costs. Out: a ScalePoint for each N. Splits are compared by closed forms, and the best few by
simulation. The batch of an iteration stays what the configuration says: this is strong scaling.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from orchestration.plan.costs import Costs, Workload, generation_counts
from orchestration.plan.scenario import Scenario
from orchestration.plan.simulation import StageTimes, predict

NUM_SIMULATED = 3  # number of splits simulated, of those that closed forms find best
WORTHWHILE = 1.1  # speed-up by further devices below which scaling has stopped
CostsOf = Callable[[Workload], Costs]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalePoint:
    """The best split of so many devices."""

    num_devices: int  # devices that may be used
    workload: Workload
    times: StageTimes

    @property
    def samples_per_s(self) -> float:
        return self.workload.completions / self.times.iteration_s


def best_splits(scenario: Scenario, numbers: Sequence[int], costs_of: CostsOf) -> list[ScalePoint]:
    """Best splits of the ascending numbers that some split fits into; devices that would not help stay unused."""
    points: list[ScalePoint] = []
    for number in numbers:
        point = best_split(scenario, number, costs_of)
        if point is None:
            continue
        if points and points[-1].samples_per_s > point.samples_per_s:
            point = replace(points[-1], num_devices=number)
        points.append(point)
    return points


def best_split(
    scenario: Scenario, num_devices: int, costs_of: CostsOf, *, num_iterations: int = 6
) -> ScalePoint | None:
    """The best split of at most so many devices; None if no split fits their memory."""
    run = scenario.workload()
    splits = [replace(run, num_engines=e, num_ranks=r) for e, r in _splits(scenario, num_devices)]
    splits.sort(key=lambda workload: closed_form_s(workload, costs_of(workload)))
    points = []
    for workload in splits[:NUM_SIMULATED]:
        times = predict(workload, costs_of(workload), num_iterations=num_iterations)
        points.append(ScalePoint(num_devices=num_devices, workload=workload, times=times))
    return max(points, key=lambda point: point.samples_per_s, default=None)


def where_it_stops(points: Sequence[ScalePoint]) -> ScalePoint | None:
    """The first point whose speed no larger number of devices beats by the factor WORTHWHILE; None if there is none."""
    for place, point in enumerate(points[:-1]):
        if max(later.samples_per_s for later in points[place + 1 :]) < WORTHWHILE * point.samples_per_s:
            return point
    return None


def closed_form_s(workload: Workload, costs: Costs) -> float:
    """Seconds of an iteration with typical lengths: the sum of its stages, or of the slower side if they overlap."""
    sequences = workload.prompt_length + _typical_lengths(workload, workload.completions)
    minibatches = [sequences[first :: workload.num_minibatches] for first in range(workload.num_minibatches)]
    learn_s = costs.load_s(workload, sequences)
    learn_s += workload.num_epochs * sum(costs.step_s(workload, part) for part in minibatches)
    generate_s, publish_s, driver_s = _generate_s(workload, costs), costs.publish_s(workload), costs.driver_s(workload)
    if workload.max_staleness == 0:
        return generate_s + learn_s + publish_s + driver_s
    return max(generate_s, learn_s + driver_s) + publish_s


def _splits(scenario: Scenario, num_devices: int) -> Iterator[tuple[int, int]]:
    """(engines, ranks) that fit: about every eighth number of engines, with all remaining ranks or a power of two.

    Fewer ranks may be faster, because ranks on several nodes communicate over the network.
    """
    rollout = scenario.config.rollout
    workers, prompts = rollout.tensor_parallel_size, rollout.prompts_per_iteration
    # beyond these an engine would have no prompt, those admitted ahead included, and a rank no completion of a step
    most_engines = min((num_devices - 1) // workers, prompts * (1 + scenario.config.max_staleness))
    useful_ranks = max(1, prompts * rollout.completions_per_prompt // scenario.config.learner.num_minibatches)
    num_engines = 1
    while num_engines <= most_engines:
        most_ranks = min(num_devices - num_engines * workers, useful_ranks)
        for num_ranks in sorted({most_ranks} | {2**power for power in range(most_ranks.bit_length())}):
            if scenario.misfit(num_ranks) is None:
                yield num_engines, num_ranks
        num_engines = max(num_engines + 1, num_engines + num_engines // 8)


def _typical_lengths(workload: Workload, number: int) -> np.ndarray:
    """[number] completion lengths, evenly spaced quantiles of the sample, ascending."""
    return np.quantile(np.array(workload.lengths), (np.arange(number) + 0.5) / number)


def _generate_s(workload: Workload, costs: Costs) -> float:
    """Seconds of one engine with its share of the groups, in as many waves as its places and cache need."""
    share = ceil(workload.prompts_per_iteration / workload.num_engines)
    lengths = _typical_lengths(workload, share * workload.completions_per_prompt)
    lengths[-1] = max(workload.lengths)
    room = min(workload.max_sequences, workload.kv_tokens // (workload.prompt_length + max(workload.lengths)) or 1)
    groups = lengths.reshape(share, workload.completions_per_prompt).tolist()
    counts = generation_counts(groups, prompt_length=workload.prompt_length)
    counts["step_s"] *= ceil(len(lengths) / room)
    return sum(count * float(getattr(costs.engine, name)) for name, count in counts.items()) + costs.grade_s
