"""The best split of N devices between engines and learner ranks, for many N, and where more of them stop to help.

In: a Scenario and its costs. Out: a ScalePoint for each N. Splits are compared by closed forms, and the best few by
simulation. The batch of an iteration stays what the configuration says: this is strong scaling.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from orchestration.plan.costs import Costs, collective_bytes, generation_counts
from orchestration.plan.scenario import Scenario
from orchestration.plan.simulation import Prediction, Workload, predict

NUM_SIMULATED = 3  # of the splits that closed forms find best
WORTHWHILE = 1.1  # any number of further devices must be at least so much faster, or scaling has stopped
# What each part is, of those that more devices do not shorten.
FLOORS = {
    "longest completion": "decoding the longest completion, token by token",
    "longest sequence": "training on the longest sequence of each step, which one rank computes",
    "optimizer step": "what an optimizer step takes whatever its data",
    "collectives": "gradients and weights on their way between ranks",
    "loading": "handing the batch to the ranks",
    "driver": "what the driver does between two iterations",
    "grading": "grading the last completion",
    "publish": "bringing the weights to the engines",
}
CostsOf = Callable[[Workload], Costs]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalePoint:
    """The best split of so many devices."""

    num_devices: int  # that may be used
    num_engines: int
    num_ranks: int
    prediction: Prediction
    samples_per_s: float
    floor: str  # the largest part of an iteration that more devices do not shorten
    floor_share: float  # of the iteration that parts of this kind take, together, at most 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """Where scaling stops, and why."""

    num_devices: int
    gain: float  # the best speed of all larger numbers over the speed with these
    reason: str


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
    splits = []
    for num_engines, num_ranks in _splits(scenario, num_devices):
        workload = scenario.workload(num_engines=num_engines, num_ranks=num_ranks)
        splits.append((closed_form_s(workload, costs_of(workload)), workload))
    splits.sort(key=lambda split: split[0])
    tried = [
        (predict(workload, costs_of(workload), num_iterations=num_iterations), workload)
        for _, workload in splits[:NUM_SIMULATED]
    ]
    if not tried:
        return None
    found, workload = min(tried, key=lambda trial: trial[0].iteration_s)
    floors = floors_s(workload, costs_of(workload))
    completions = workload.prompts_per_iteration * workload.completions_per_prompt
    return ScalePoint(
        num_devices=num_devices,
        num_engines=workload.num_engines,
        num_ranks=workload.num_ranks,
        prediction=found,
        samples_per_s=completions / found.iteration_s,
        floor=max(floors, key=lambda name: floors[name]),
        floor_share=min(1.0, sum(floors.values()) / found.iteration_s),
    )


def where_it_stops(points: Sequence[ScalePoint]) -> Stop | None:
    """The first point after which all further devices together gain less than WORTHWHILE; None if there is none."""
    for place, point in enumerate(points[:-1]):
        gain = max(later.samples_per_s for later in points[place + 1 :]) / point.samples_per_s
        if gain < WORTHWHILE:
            return Stop(num_devices=point.num_devices, gain=gain, reason=point.floor)
    return None


def closed_form_s(workload: Workload, costs: Costs) -> float:
    """An iteration without waiting for chance: the sum of its stages, or the slower side where they overlap."""
    generate_s = _generate_s(workload, costs)
    sequences = _typical_sequences(workload)
    learner = costs.learner
    passes_s = learner.pass_s(sequences, num_ranks=workload.num_ranks, max_tokens=workload.max_tokens)
    scoring_s = (int(workload.recomputes_logprobs) + int(workload.keeps_reference)) * learner.scoring_share * passes_s
    learn_s = learner.load_s + learner.sample_s * len(sequences) + scoring_s + workload.num_epochs * passes_s
    learn_s += workload.num_minibatches * workload.num_epochs * (learner.step_s + _collective_s(workload, costs))
    publish_s, driver_s = _publish_s(workload, costs), costs.iteration_s + costs.completion_s * len(sequences)
    if workload.max_staleness == 0:
        return generate_s + learn_s + publish_s + driver_s
    return max(generate_s, learn_s + driver_s) + publish_s


def floors_s(workload: Workload, costs: Costs) -> dict[str, float]:
    """Parts of an iteration that no number of devices shortens, seconds; of the slower side where they overlap."""
    longest = max(workload.lengths)
    engine, learner = costs.engine, costs.learner
    num_steps = workload.num_minibatches * workload.num_epochs
    completions = workload.prompts_per_iteration * workload.completions_per_prompt
    alone_s = engine.decoding_s(longest, 1, workload.prompt_length) + engine.burst_s + engine.group_s
    sequence = np.array([workload.prompt_length + longest])
    of_engines = {"longest completion": alone_s, "grading": costs.grade_s}
    of_learner = {
        "optimizer step": num_steps * learner.step_s,
        "collectives": num_steps * _collective_s(workload, costs),
        "longest sequence": num_steps * learner.pass_s(sequence, num_ranks=1, max_tokens=workload.max_tokens),
        "loading": learner.load_s + learner.sample_s * completions,
        "driver": costs.iteration_s + costs.completion_s * completions,
    }
    both = {"publish": _publish_s(workload, costs)}
    if workload.max_staleness == 0:
        return of_engines | of_learner | both
    slower = of_engines if sum(of_engines.values()) > sum(of_learner.values()) else of_learner
    return slower | both


def _splits(scenario: Scenario, num_devices: int) -> Iterator[tuple[int, int]]:
    """(engines, ranks) that fit: about every eighth number of engines, with all that is left as ranks or fewer.

    Fewer, because ranks on several nodes talk over the network: powers of two are tried.
    """
    workers = scenario.config.rollout.tensor_parallel_size
    most_engines = min((num_devices - 1) // workers, scenario.most_engines())
    num_engines = 1
    while num_engines <= most_engines:
        most_ranks = min(num_devices - num_engines * workers, scenario.most_ranks())
        numbers = {most_ranks} | {2**power for power in range(most_ranks.bit_length())}
        for num_ranks in sorted(numbers):
            if scenario.misfit(num_ranks) is None:
                yield num_engines, num_ranks
        num_engines = max(num_engines + 1, num_engines + num_engines // 8)


def _typical_sequences(workload: Workload) -> np.ndarray:
    """[N] lengths of an iteration's sequences: evenly spaced quantiles of the sample."""
    completions = workload.prompts_per_iteration * workload.completions_per_prompt
    places = (np.arange(completions) + 0.5) / completions
    return workload.prompt_length + np.quantile(np.array(workload.lengths), places)


def _generate_s(workload: Workload, costs: Costs) -> float:
    """Of one engine with its share of the groups, in as many waves as its seats and cache make of them."""
    share = ceil(workload.prompts_per_iteration / workload.num_engines)
    group_size = workload.completions_per_prompt
    places = (np.arange(share * group_size) + 0.5) / (share * group_size)
    lengths = np.quantile(np.array(workload.lengths), places)
    lengths[-1] = max(workload.lengths)
    room = min(workload.max_sequences, workload.kv_tokens // (workload.prompt_length + max(workload.lengths)) or 1)
    waves = ceil(len(lengths) / room)
    groups = lengths.reshape(share, group_size).tolist()
    steps, *others = generation_counts(groups, prompt_length=workload.prompt_length)
    engine = costs.engine
    prices = (
        engine.sequence_s,
        engine.context_token_s,
        engine.prompt_token_s,
        engine.group_s,
        engine.burst_s,
    )
    counted_s = sum(count * price for count, price in zip(others, prices, strict=True))
    return waves * steps * engine.step_s + counted_s + costs.grade_s


def _collective_s(workload: Workload, costs: Costs) -> float:
    tokens = _typical_sequences(workload).sum() / workload.num_minibatches
    moved = collective_bytes(
        trained=workload.trained_parameters,
        gathered=workload.gathered_parameters,
        zero_stage=workload.zero_stage,
        num_ranks=workload.num_ranks,
        num_rows=ceil(tokens / workload.num_ranks / workload.max_tokens),
        weight_bytes=workload.learner_weight_bytes,
    )
    return costs.wire.seconds(moved, workload.num_ranks)


def _publish_s(workload: Workload, costs: Costs) -> float:
    num_bytes = workload.published_parameters * workload.wire_weight_bytes
    workers = workload.num_engines * workload.workers_per_engine
    return costs.publish.seconds(num_bytes, workers, costs.wire, num_devices=workload.num_devices)
