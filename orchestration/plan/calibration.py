"""From small measurements of the real parts to the coefficients of costs.py.

In: Measurements and MeasuredRuns of the machine at hand, made by orchestration/plan/measurements.py. Out: Costs, and
how far the fits are from what they were fitted to. Measures nothing itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestration.plan.costs import Costs, EngineCosts, LearnerCosts, PublishCosts, WireCosts, generation_counts
from orchestration.plan.fitting import fit_seconds, relative_error
from orchestration.plan.simulation import Workload, predict

FORWARD_SHARE = 1 / 3  # of forward and backward, by operations; used where recomputing was not measured
LOWEST_RATE = 0.3  # of two parts at once, below which a measurement is disbelieved
NUM_BISECTIONS = 12  # to 0.0002
NUM_ROUNDS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRun:
    """Groups sent to one idle engine at once, until all had come back."""

    prompt_length: int  # mean, tokens
    lengths: tuple[tuple[int, ...], ...]  # of each group's completions
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerRun:
    """One batch loaded and trained on by one rank."""

    lengths: tuple[int, ...]  # of each sequence, prompt and completion
    num_steps: int
    max_tokens: int  # of a micro-batch
    load_s: float
    update_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishRun:
    """One publish from one rank to one engine."""

    num_bytes: int
    total_s: float
    send_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRun:
    """A short run of the whole loop."""

    workload: Workload
    iteration_s: float  # mean


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurements:
    """Everything that was measured, part by part."""

    generation: tuple[GenerationRun, ...]
    learner: tuple[LearnerRun, ...]
    publishes: tuple[PublishRun, ...]
    grade_s: float  # of a completion in one process


def fit_costs(measured: Measurements, *, recomputes_logprobs: bool) -> tuple[Costs, dict[str, float]]:
    """Costs without what only whole runs show, and the mean relative error of each fit."""
    engine, engine_error = _fit_engine(measured)
    learner, learner_error = _fit_learner(measured, recomputes_logprobs=recomputes_logprobs)
    byte_s = float(np.median([run.send_s / run.num_bytes for run in measured.publishes]))
    fixed_s = float(np.median([run.total_s - run.send_s for run in measured.publishes]))
    costs = Costs(
        engine=engine,
        learner=learner,
        wire=WireCosts(byte_s=byte_s, network_byte_s=byte_s, devices_per_node=1),
        publish=PublishCosts(fixed_s=fixed_s, by_tree=True),
        grade_s=measured.grade_s,
        iteration_s=0.0,
        completion_s=0.0,
        rates=(),
    )
    return costs, {"generation": engine_error, "learner": learner_error}


def fit_runs(costs: Costs, runs: Sequence[MeasuredRun]) -> Costs:
    """What only whole runs show: the driver's time, from synchronous runs; the speed of parts that share cores.

    Without an asynchronous run nothing is shared. Each of the two depends a little on the other, so both are found
    again until they agree.
    """
    synchronous = [run for run in runs if run.workload.max_staleness == 0]
    overlapping = [run for run in runs if run.workload.max_staleness > 0]
    for _ in range(NUM_ROUNDS):
        costs = _with_driver(costs, synchronous)
        if overlapping:
            costs = _with_sharing(costs, overlapping)
    return costs


def _with_driver(costs: Costs, runs: Sequence[MeasuredRun]) -> Costs:
    """Charges the driver what runs take beyond their parts: a constant, and a share that grows with the batch."""
    parts = replace(costs, iteration_s=0.0, completion_s=0.0)
    sizes = [float(run.workload.prompts_per_iteration * run.workload.completions_per_prompt) for run in runs]
    missing = [max(0.0, run.iteration_s - predict(run.workload, parts).iteration_s) for run in runs]
    if len(set(sizes)) < 2:
        return replace(parts, iteration_s=sum(missing) / len(missing))
    slope = max(0.0, float(np.polyfit(sizes, missing, deg=1)[0]))
    constant = float(np.mean(missing)) - slope * float(np.mean(sizes))
    if constant < 0.0:
        constant, slope = 0.0, float(np.mean(missing) / np.mean(sizes))
    return replace(parts, iteration_s=constant, completion_s=slope)


def _with_sharing(costs: Costs, runs: Sequence[MeasuredRun]) -> Costs:
    """The speed of two parts that compute at once, by which asynchronous runs take as long as was measured.

    Three or more share what two have. A measurement outside [LOWEST_RATE, 1] gives the nearer end.
    """
    measured_s = sum(run.iteration_s for run in runs)
    low, high = LOWEST_RATE, 1.0
    for _ in range(NUM_BISECTIONS):
        middle = (low + high) / 2
        shared = replace(costs, rates=(1.0, middle))
        if sum(predict(run.workload, shared).iteration_s for run in runs) > measured_s:
            low = middle
        else:
            high = middle
    return replace(costs, rates=(1.0, (low + high) / 2))


def _fit_engine(measured: Measurements) -> tuple[EngineCosts, float]:
    runs = measured.generation
    counts = np.array([generation_counts(run.lengths, prompt_length=run.prompt_length) for run in runs])
    seconds = np.array([run.seconds for run in runs])
    found = fit_seconds(counts, seconds)
    step_s, sequence_s, context_token_s, prompt_token_s, group_s, burst_s = found.tolist()
    costs = EngineCosts(
        step_s=step_s,
        sequence_s=sequence_s,
        context_token_s=context_token_s,
        prompt_token_s=prompt_token_s,
        group_s=group_s,
        burst_s=burst_s,
    )
    return costs, relative_error(counts, seconds, found)


def _fit_learner(measured: Measurements, *, recomputes_logprobs: bool) -> tuple[LearnerCosts, float]:
    runs = measured.learner
    counts = np.array([_learner_counts(run) for run in runs])
    seconds = np.array([run.update_s for run in runs])
    found = fit_seconds(counts, seconds)
    step_s, row_s, sequence_s, token_s, pair_s = found.tolist()
    error = relative_error(counts, seconds, found)
    load_counts = np.array([[1.0, float(len(run.lengths))] for run in runs])
    loads = np.array([run.load_s for run in runs])
    share = 0.0
    if recomputes_logprobs:
        load_counts = np.column_stack([load_counts, counts[:, 1:] @ found[1:]])
        load_s, sample_s, share = fit_seconds(load_counts, loads).tolist()
    else:
        load_s, sample_s = fit_seconds(load_counts, loads).tolist()
    costs = LearnerCosts(
        load_s=load_s,
        sample_s=sample_s,
        step_s=step_s,
        row_s=row_s,
        sequence_s=sequence_s,
        token_s=token_s,
        pair_s=pair_s,
        scoring_share=share or FORWARD_SHARE,
    )
    return costs, error


def _learner_counts(run: LearnerRun) -> list[float]:
    """Steps, rows, sequences, tokens, squared lengths. Every sequence is in one step of the run."""
    lengths = np.array(run.lengths, dtype=np.float64)
    rows = run.num_steps * np.ceil(lengths.sum() / run.num_steps / run.max_tokens)
    return [float(run.num_steps), float(rows), float(len(lengths)), lengths.sum(), np.square(lengths).sum()]
