"""The best split of N devices between engines and learner ranks, for many N, and where more of them stop to help.

In: a Scenario and its costs. Out: a ScalePoint for each N. Splits are compared by closed forms, and the best few by
simulation. The batch of an iteration stays what the configuration says: this is strong scaling.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from orchestration.plan.costs import Costs, Workload, generation_counts
from orchestration.plan.scenario import Scenario
from orchestration.plan.simulation import Prediction, predict

NUM_SIMULATED = 3  # of the splits that closed forms find best
WORTHWHILE = 1.1  # any number of further devices must be at least so much faster, or scaling has stopped
CostsOf = Callable[[Workload], Costs]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalePoint:
    """The best split of so many devices."""

    num_devices: int  # that may be used
    workload: Workload
    prediction: Prediction
    floor: str  # the largest part of an iteration that more devices do not shorten
    floor_share: float  # of the iteration that all such parts take, at most 1

    @property
    def samples_per_s(self) -> float:
        return self.workload.completions / self.prediction.mean.iteration_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """Where scaling stops."""

    point: ScalePoint
    gain: float  # the best speed of all larger numbers over the speed with these


def best_splits(scenario: Scenario, numbers: Sequence[int], costs_of: CostsOf) -> list[ScalePoint]:
    """One for each of the ascending numbers that some split fits into; devices that would not help stay unused."""
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
    """Of at most so many devices; None where no split fits their memory."""
    splits = [scenario.workload(num_engines=e, num_ranks=r) for e, r in _splits(scenario, num_devices)]
    splits.sort(key=lambda workload: closed_form_s(workload, costs_of(workload)))
    points = []
    for workload in splits[:NUM_SIMULATED]:
        costs = costs_of(workload)
        found, floors = predict(workload, costs, num_iterations=num_iterations), floors_s(workload, costs)
        share = min(1.0, sum(floors.values()) / found.mean.iteration_s)
        largest = max(floors, key=lambda name: floors[name])
        points.append(
            ScalePoint(num_devices=num_devices, workload=workload, prediction=found, floor=largest, floor_share=share)
        )
    return max(points, key=lambda point: point.samples_per_s, default=None)


def where_it_stops(points: Sequence[ScalePoint]) -> Stop | None:
    """The first point after which all further devices together gain less than WORTHWHILE; None if there is none."""
    for place, point in enumerate(points[:-1]):
        gain = max(later.samples_per_s for later in points[place + 1 :]) / point.samples_per_s
        if gain < WORTHWHILE:
            return Stop(point=point, gain=gain)
    return None


def closed_form_s(workload: Workload, costs: Costs) -> float:
    """An iteration without waiting for chance: the sum of its stages, or the slower side where they overlap."""
    sequences = workload.prompt_length + _typical_lengths(workload, workload.completions)
    minibatches = [sequences[first :: workload.num_minibatches] for first in range(workload.num_minibatches)]
    learn_s = costs.load_s(workload, sequences)
    learn_s += workload.num_epochs * sum(costs.step_s(workload, part) for part in minibatches)
    generate_s, publish_s, driver_s = _generate_s(workload, costs), costs.publish_s(workload), costs.driver_s(workload)
    if workload.max_staleness == 0:
        return generate_s + learn_s + publish_s + driver_s
    return max(generate_s, learn_s + driver_s) + publish_s


def floors_s(workload: Workload, costs: Costs) -> dict[str, float]:
    """Parts of an iteration that no number of devices shortens, seconds; of the slower side where they overlap."""
    engine, learner, longest = costs.engine, costs.learner, max(workload.lengths)
    num_steps = workload.num_minibatches * workload.num_epochs
    sequence = np.array([workload.prompt_length + longest])
    sequence_s = learner.pass_s(sequence, replace(workload, num_ranks=1))
    of_engines = {
        "longest completion": engine.decoding_s(longest, 1, workload.prompt_length) + engine.burst_s + engine.group_s,
        "grading": costs.grade_s,
    }
    of_learner = {
        "optimizer step": num_steps * learner.step_s,
        "longest sequence": num_steps * sequence_s,
        "collectives": num_steps * costs.collective_s(workload, sequence),
        "loading": learner.load_s + learner.sample_s * workload.completions,
        "driver": costs.driver_s(workload),
    }
    both = {"publish": costs.publish_s(workload)}
    if workload.max_staleness == 0:
        return of_engines | of_learner | both
    return max(of_engines, of_learner, key=lambda side: sum(side.values())) | both


def _splits(scenario: Scenario, num_devices: int) -> Iterator[tuple[int, int]]:
    """(engines, ranks) that fit: about every eighth number of engines, with all that is left as ranks or fewer.

    Fewer, because ranks on several nodes talk over the network: powers of two are tried.
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
    """Of one engine with its share of the groups, in as many waves as its seats and cache make of them."""
    share = ceil(workload.prompts_per_iteration / workload.num_engines)
    lengths = _typical_lengths(workload, share * workload.completions_per_prompt)
    lengths[-1] = max(workload.lengths)
    room = min(workload.max_sequences, workload.kv_tokens // (workload.prompt_length + max(workload.lengths)) or 1)
    groups = lengths.reshape(share, workload.completions_per_prompt).tolist()
    counts = generation_counts(groups, prompt_length=workload.prompt_length)
    counts["step_s"] *= ceil(len(lengths) / room)
    return sum(count * float(getattr(costs.engine, name)) for name, count in counts.items()) + costs.grade_s
