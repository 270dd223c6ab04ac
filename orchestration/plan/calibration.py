"""From small measurements of the real parts to Costs, and the file that keeps them for later plans.

In: Measurements and MeasuredRuns of the machine at hand, made by measurements.py. Out: Costs, how far the fits are from
what they were fitted to, and a Calibration as a JSON file. Measures nothing itself.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from configs.lora import LoraConfig
from configs.schema import RunConfig
from orchestration.plan.command import PlanRequest
from orchestration.plan.costs import Costs, EngineCosts, LearnerCosts, WireCosts, Workload
from orchestration.plan.model_shape import ModelShape
from orchestration.plan.scenario import Scenario
from orchestration.plan.simulation import predict

FORWARD_SHARE = 1 / 3  # of forward and backward, by operations; used where recomputing was not measured
LOWEST_RATE = 0.3  # of two parts at once, below which a measurement is disbelieved
NUM_ROUNDS = 3


class CalibrationError(ValueError):
    """A calibration that cannot be used for what was asked."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """One measured piece of work. Example: counts={"step_s": 2, "token_s": 900}, seconds=0.3."""

    counts: dict[str, float]  # how often each cost was paid, by the name of the cost
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurements:
    """Everything that was measured part by part, with one engine and one rank."""

    generation: tuple[Timing, ...]  # groups sent to an idle engine at once, until all had come back
    updates: tuple[Timing, ...]  # all optimizer steps of a batch
    loads: tuple[Timing, ...]  # loading the batches of `updates`, in their order
    byte_s: float  # of a publish
    publish_fixed_s: float
    grade_s: float  # of a completion in one process
    prompt_length: int
    lengths: tuple[int, ...]  # of completions


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRun:
    """A short run of the whole loop."""

    workload: Workload
    iteration_s: float  # mean


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What planning knows of one model on one machine."""

    format: Literal[3] = 3  # version of the file; raised when what is in it changes its meaning
    machine: str  # in words
    device: str  # cpu or gpu
    shape: ModelShape
    engine_dtype: str
    learner_dtype: str
    lora: LoraConfig
    costs: Costs
    prompt_length: int
    lengths: tuple[int, ...]  # of completions, as sampled at the longest rollout.max_new_tokens that was measured
    errors: dict[str, float]  # mean relative error of each fit, over what it was fitted to


FILE = TypeAdapter(Calibration)


def default_path(shape: ModelShape, device: str) -> Path:
    """$SOFTGATE_CACHE/calibrations, or ~/.cache/softgate/calibrations: a file for each model and device."""
    root = os.environ.get("SOFTGATE_CACHE")
    folder = (Path(root) if root else Path.home() / ".cache" / "softgate") / "calibrations"
    name = "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in Path(shape.name).name)
    return folder / f"{name}-{shape.num_parameters}-{device}.json"


def device_of(config: RunConfig) -> str:
    """cpu or gpu: what the configuration says, else what this machine has."""
    if config.cluster.device != "auto":
        return config.cluster.device
    from orchestration.cluster import local_resources

    return "gpu" if local_resources().get("GPU", 0) > 0 else "cpu"


def calibration_path(request: PlanRequest, shape: ModelShape) -> Path:
    """The file that was named, else where calibrations of this model and device are kept."""
    return default_path(shape, device_of(request.config)) if request.calibration is None else Path(request.calibration)


def save_calibration(calibration: Calibration, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(FILE.dump_json(calibration, indent=1) + b"\n")


def load_calibration(path: Path) -> Calibration:
    """What save_calibration wrote; CalibrationError where the file is not that."""
    try:
        return FILE.validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise CalibrationError(f"calibration={path}: no such file; measure this machine with --calibrate") from error
    except ValidationError as error:
        is_other = any(each["loc"] == ("format",) for each in error.errors())
        what = "of another version of softgate" if is_other else f"not a calibration ({error.error_count()} mistakes)"
        raise CalibrationError(f"calibration={path}: {what}; measure again (--calibrate)") from error


def require_measured(calibration: Calibration, scenario: Scenario, path: Path) -> None:
    """CalibrationError where a model of other sizes was measured, or other dtypes or adapters."""
    measured = _identity(calibration.shape, calibration.engine_dtype, calibration.learner_dtype, calibration.lora)
    asked = _identity(scenario.shape, scenario.engine_dtype, scenario.learner_dtype, scenario.config.learner.lora)
    differing = [name for name in asked if asked[name] != measured[name]]
    if differing:
        was, wanted = (", ".join(f"{name}={found[name]}" for name in differing) for found in (measured, asked))
        raise CalibrationError(
            f"calibration={path}: was measured with {was}, asked is {wanted}; measure that with --calibrate"
        )


def _identity(shape: ModelShape, engine_dtype: str, learner_dtype: str, lora: LoraConfig) -> dict[str, object]:
    """What a calibration holds for, by name."""
    sizes = {name: size for name, size in asdict(shape).items() if name != "name"}
    adapters = {f"learner.lora.{name}": value for name, value in lora.model_dump(mode="json").items()}
    return sizes | {"rollout.dtype": engine_dtype, "learner.dtype": learner_dtype} | adapters


def fit_costs(measured: Measurements, *, num_scoring_passes: int) -> tuple[Costs, dict[str, float]]:
    """Costs without what only whole runs show, and the mean relative error of each fit."""
    engine, engine_error = fit_seconds(measured.generation)
    learner, learner_error = fit_seconds(measured.updates)
    loads = []
    for load, update in zip(measured.loads, measured.updates, strict=True):
        pass_s = sum(learner[name] * number for name, number in update.counts.items() if name != "step_s")
        scoring = {"scoring_share": num_scoring_passes * pass_s} if num_scoring_passes else {}
        loads.append(replace(load, counts=load.counts | scoring))
    prices, _ = fit_seconds(loads)
    share = prices.pop("scoring_share", 0.0) or FORWARD_SHARE
    costs = Costs(
        engine=EngineCosts(**engine),
        learner=LearnerCosts(**learner, **prices, scoring_share=share),
        wire=WireCosts(byte_s=measured.byte_s, network_byte_s=measured.byte_s, devices_per_node=1),
        publish_fixed_s=measured.publish_fixed_s,
        publishes_by_tree=True,
        grade_s=measured.grade_s,
    )
    return costs, {"generation": engine_error, "learner": learner_error}


def fit_seconds(timings: Sequence[Timing]) -> tuple[dict[str, float], float]:
    """Seconds of each count, by its name, and the mean relative error.

    None is negative: a cost below 0 would make more work cheaper wherever a prediction leaves what was measured. The
    squares of relative errors are minimised; a count that was always 0 costs 0.
    """
    from scipy.optimize import nnls

    names = list(timings[0].counts)
    seconds = np.array([each.seconds for each in timings])
    counts = np.array([[each.counts[name] for name in names] for each in timings]) / seconds[:, None]
    scale = np.abs(counts).max(axis=0)
    scale[scale == 0.0] = 1.0
    found = nnls(counts / scale, np.ones(len(seconds)))[0] / scale
    return dict(zip(names, found.tolist(), strict=True)), float(np.abs(counts @ found - 1.0).mean())


def fit_runs(costs: Costs, runs: Sequence[MeasuredRun]) -> Costs:
    """What only whole runs show: the driver's time, and the speed of two parts that share cores.

    The driver is charged what synchronous runs take beyond their parts: a constant, and a share that grows with the
    batch. The speed is that by which asynchronous runs take as long as was measured; without such a run nothing is
    shared. Each depends a little on the other, so both are found again until they agree.
    """
    from scipy.optimize import minimize_scalar, nnls

    synchronous = [run for run in runs if run.workload.max_staleness == 0]
    overlapping = [run for run in runs if run.workload.max_staleness > 0]
    completions = np.array([[1.0, float(run.workload.completions)] for run in synchronous])

    def missing_s(run: MeasuredRun, assumed: Costs) -> float:
        return run.iteration_s - predict(run.workload, assumed).mean.iteration_s

    def error_s(pair_rate: float) -> float:
        return abs(sum(missing_s(run, replace(costs, pair_rate=float(pair_rate))) for run in overlapping))

    for _ in range(NUM_ROUNDS):
        costs = replace(costs, iteration_s=0.0, completion_s=0.0)
        missing = np.array([max(0.0, missing_s(run, costs)) for run in synchronous])
        iteration_s, completion_s = nnls(completions, missing)[0].tolist()
        costs = replace(costs, iteration_s=iteration_s, completion_s=completion_s)
        if overlapping:
            found = minimize_scalar(error_s, bounds=(LOWEST_RATE, 1.0), method="bounded")
            costs = replace(costs, pair_rate=float(found.x))
    return costs
