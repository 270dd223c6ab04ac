"""Costs fitted to small measurements of the real parts, and the file that keeps them for later plans.

In: Timings of the parts and of whole runs, made by measurements.py. Out: Costs, the errors of the fits, and a
Calibration as a JSON file. Measures nothing itself.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from configs.loading import ConfigError
from configs.schema import RunConfig
from orchestration.plan.costs import Costs, EngineCosts, LearnerCosts, Workload
from orchestration.plan.scenario import ModelShape, Scenario
from orchestration.plan.simulation import predict
from rollout.tasks.embedded_model import default_cache_dir

FORWARD_SHARE = 1 / 3  # share of a forward pass in forward and backward, used if recomputing was not measured
LOWEST_RATE = 0.3  # lowest credible speed of two parts at once
NUM_ROUNDS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """One measured piece of work. Example: counts={"step_s": 2, "token_s": 900}, seconds=0.3."""

    counts: dict[str, float]  # number of times each cost was paid, by its name
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What was measured of one model on one machine."""

    format: Literal[4] = 4  # version of the file; raised when its meaning changes
    device: str  # cpu or gpu
    shape: ModelShape
    engine_dtype: str
    learner_dtype: str
    costs: Costs
    prompt_length: int  # tokens
    lengths: tuple[int, ...]  # completion lengths at the longest rollout.max_new_tokens that was measured
    errors: dict[str, float]  # mean relative error of each fit


FILE = TypeAdapter(Calibration)


def device_of(config: RunConfig) -> str:
    """The configured device, cpu or gpu, or if that is auto the machine's."""
    if config.cluster.device != "auto":
        return config.cluster.device
    from orchestration.cluster import local_resources

    return "gpu" if local_resources().get("GPU", 0) > 0 else "cpu"


def kept_path(shape: ModelShape, device: str) -> Path:
    """The file in the cache of calibrations for this model and device."""
    name = re.sub(r"[^\w.-]", "-", Path(shape.name).name)
    return default_cache_dir().parent / "calibrations" / f"{name}-{shape.num_parameters}-{device}.json"


def load_calibration(path: Path) -> Calibration:
    """The calibration in a file; ConfigError if there is none."""
    try:
        return FILE.validate_json(path.read_bytes())
    except FileNotFoundError as error:
        remedy = "measure this machine with --calibrate, or count from a data sheet with hardware=h100"
        raise ConfigError([f"calibration={path}: no such file; {remedy}"]) from error
    except ValidationError as error:
        what = "not a calibration of this version of softgate"
        raise ConfigError([f"calibration={path}: {what}; measure again (--calibrate)"]) from error


def require_measured(calibration: Calibration, scenario: Scenario, path: Path) -> None:
    """ConfigError if a model of other sizes was measured, or other dtypes."""
    measured, asked = (
        asdict(each.shape) | {"name": "", "rollout.dtype": each.engine_dtype, "learner.dtype": each.learner_dtype}
        for each in (calibration, scenario)
    )
    differing = [name for name in asked if asked[name] != measured[name]]
    if differing:
        was, wanted = (", ".join(f"{name}={found[name]}" for name in differing) for found in (measured, asked))
        remedy = "measure that with --calibrate"
        raise ConfigError([f"calibration={path}: was measured with {was}, asked is {wanted}; {remedy}"])


def fit_parts(
    generation: Sequence[Timing], updates: Sequence[Timing], loads: Sequence[Timing], *, num_scoring_passes: int
) -> tuple[EngineCosts, LearnerCosts, dict[str, float]]:
    """Costs of an engine and a rank, and the mean relative error of each fit; loads are of the batches of updates."""
    engine, engine_error = fit_seconds(generation)
    learner, learner_error = fit_seconds(updates)
    with_scoring = []
    for load, update in zip(loads, updates, strict=True):
        pass_s = sum(learner[name] * number for name, number in update.counts.items() if name != "step_s")
        scoring = {"scoring_share": num_scoring_passes * pass_s} if num_scoring_passes else {}
        with_scoring.append(replace(load, counts=load.counts | scoring))
    prices, _ = fit_seconds(with_scoring)
    share = prices.pop("scoring_share", 0.0) or FORWARD_SHARE
    errors = {"generation": engine_error, "learner": learner_error}
    return EngineCosts(**engine), LearnerCosts(**learner, **prices, scoring_share=share), errors


def fit_seconds(timings: Sequence[Timing]) -> tuple[dict[str, float], float]:
    """Seconds of each count, by its name, and the mean relative error: non-negative least squares of relative errors.

    A count that was always 0 costs 0.
    """
    from scipy.optimize import nnls

    names = list(timings[0].counts)
    seconds = np.array([each.seconds for each in timings])
    counts = np.array([[each.counts[name] for name in names] for each in timings]) / seconds[:, None]
    scale = np.abs(counts).max(axis=0)
    scale[scale == 0.0] = 1.0
    found = nnls(counts / scale, np.ones(len(seconds)))[0] / scale
    return dict(zip(names, found.tolist(), strict=True)), float(np.abs(counts @ found - 1.0).mean())


def fit_runs(costs: Costs, runs: Sequence[tuple[Workload, float]]) -> Costs:
    """Adds the driver's time and the speed of two parts that share cores, from measured seconds of an iteration.

    The driver is charged what synchronous runs take beyond their parts: a constant, and a share that grows with the
    batch. The speed is the one at which asynchronous runs take as long as measured. Each depends a little on the other,
    so both are found again until they agree.
    """
    from scipy.optimize import minimize_scalar, nnls

    synchronous = [run for run in runs if run[0].max_staleness == 0]
    overlapping = [run for run in runs if run[0].max_staleness > 0]
    completions = np.array([[1.0, float(workload.completions)] for workload, _ in synchronous])

    def missing_s(assumed: Costs, workload: Workload, iteration_s: float) -> float:
        return iteration_s - predict(workload, assumed).iteration_s

    def error_s(pair_rate: float) -> float:
        return abs(sum(missing_s(replace(costs, pair_rate=float(pair_rate)), *run) for run in overlapping))

    for _ in range(NUM_ROUNDS):
        costs = replace(costs, iteration_s=0.0, completion_s=0.0)
        missing = np.array([max(0.0, missing_s(costs, *run)) for run in synchronous])
        iteration_s, completion_s = nnls(completions, missing)[0].tolist()
        costs = replace(costs, iteration_s=iteration_s, completion_s=completion_s)
        if overlapping:
            found = minimize_scalar(error_s, bounds=(LOWEST_RATE, 1.0), method="bounded")
            costs = replace(costs, pair_rate=float(found.x))
    return costs
