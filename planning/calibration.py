"""From small measurements of the real parts to the coefficients of costs.py, and the file that keeps them.

In: Measurements, made by orchestration/plan_measurements.py on the machine at hand. Out: a Calibration, as JSON in a
folder of the user or where they say. Measures nothing itself.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from planning.costs import Costs, EngineCosts, LearnerCosts, PublishCosts, WireCosts, generation_counts
from planning.fitting import fit_seconds, relative_error
from planning.model_shape import ModelShape
from planning.simulation import Workload, predict

FORMAT = 1  # of the file; raised when what is in it changes its meaning
FORWARD_SHARE = 1 / 3  # of forward and backward, by operations; used where recomputing was not measured
LOWEST_RATE = 0.3  # of two parts at once, below which a measurement is disbelieved
NUM_BISECTIONS = 12  # to 0.0002
NUM_ROUNDS = 3


class CalibrationError(ValueError):
    """A calibration that cannot be used for what was asked."""


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
    iteration_s: float  # median


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurements:
    """Everything that was measured, part by part."""

    generation: tuple[GenerationRun, ...]
    learner: tuple[LearnerRun, ...]
    publishes: tuple[PublishRun, ...]
    grade_s: float  # of a completion in one process


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What planning knows of one model on one machine."""

    machine: str  # in words
    device: str  # cpu or gpu
    shape: ModelShape
    engine_dtype: str
    learner_dtype: str
    costs: Costs
    prompt_length: int
    lengths: tuple[int, ...]  # of completions, as sampled at the longest rollout.max_new_tokens that was measured
    errors: dict[str, float]  # mean relative error of each fit, over what it was fitted to


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


def default_path(shape: ModelShape, device: str) -> Path:
    """$SOFTGATE_CACHE/calibrations, or ~/.cache/softgate/calibrations: a file for each model and device."""
    root = os.environ.get("SOFTGATE_CACHE")
    folder = (Path(root) if root else Path.home() / ".cache" / "softgate") / "calibrations"
    name = "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in Path(shape.name).name)
    return folder / f"{name}-{shape.num_parameters}-{device}.json"


def save_calibration(calibration: Calibration, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tree = {"format": FORMAT, **asdict(calibration)}
    path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def load_calibration(path: Path) -> Calibration:
    """What save_calibration wrote; CalibrationError where the file is not that."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree.pop("format") != FORMAT:
            raise CalibrationError(f"calibration={path}: of another version of softgate; measure again (--calibrate)")
        costs = tree.pop("costs")
        return Calibration(
            shape=ModelShape(**tree.pop("shape")),
            costs=Costs(
                engine=EngineCosts(**costs.pop("engine")),
                learner=LearnerCosts(**costs.pop("learner")),
                wire=WireCosts(**costs.pop("wire")),
                publish=PublishCosts(**costs.pop("publish")),
                rates=tuple(costs.pop("rates")),
                **costs,
            ),
            lengths=tuple(tree.pop("lengths")),
            **tree,
        )
    except FileNotFoundError as error:
        raise CalibrationError(f"calibration={path}: no such file; measure this machine with --calibrate") from error
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise CalibrationError(
            f"calibration={path}: not a calibration ({error}); measure again (--calibrate)"
        ) from error


def require_model(calibration: Calibration, shape: ModelShape, path: Path) -> None:
    """CalibrationError where it was made with a model of other sizes."""
    differing = [
        field.name
        for field in fields(ModelShape)
        if field.name != "name" and getattr(shape, field.name) != getattr(calibration.shape, field.name)
    ]
    if differing:
        raise CalibrationError(
            f"calibration={path}: was measured with {calibration.shape.name}, which differs from {shape.name} in "
            f"{', '.join(differing)}; measure that model with --calibrate"
        )


def require_dtypes(calibration: Calibration, *, engine: str, learner: str, path: Path) -> None:
    """CalibrationError where engine or learner computed in another dtype."""
    asked = {"rollout.dtype": (engine, calibration.engine_dtype), "learner.dtype": (learner, calibration.learner_dtype)}
    for name, (wanted, measured) in asked.items():
        if wanted != measured:
            raise CalibrationError(
                f"calibration={path}: was measured with {name}={measured}, asked is {wanted}; measure that with "
                f"--calibrate"
            )


def limited(lengths: Sequence[int], max_new_tokens: int) -> tuple[int, ...]:
    """A sample of completion lengths where completions are cut off at max_new_tokens."""
    return tuple(min(length, max_new_tokens) for length in lengths)
