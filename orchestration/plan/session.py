"""One plan from its request to its tables: what it is predicted from, and what is said about that.

In: a PlanRequest. Out: tables on the terminal; with --calibrate a file that later plans start from. Looks up or makes a
calibration, or counts from a data sheet; all arithmetic is in the files beside it.
"""

from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

from rich.console import Console

from configs.loading import ConfigError
from orchestration.plan.calibration import (
    Calibration,
    CalibrationError,
    calibration_path,
    load_calibration,
    require_measured,
)
from orchestration.plan.command import PlanRequest
from orchestration.plan.hardware import Hardware, HardwareError, costs_from_hardware, load_hardware
from orchestration.plan.model_shape import ModelShape, ModelShapeError, model_shape
from orchestration.plan.scaling import CostsOf, best_splits, where_it_stops
from orchestration.plan.scenario import Scenario
from orchestration.plan.simulation import predict
from orchestration.plan.tables import iteration_table, memory_table, scaling_table, stop_line
from orchestration.stream.finished_order import MIN_STALENESS
from orchestration.terminal.console import print_line

STALENESS = (0, 1, 2, 4)  # compared beside that of the run


@dataclass(frozen=True, kw_only=True, slots=True)
class Basis:
    """What a plan is predicted from."""

    scenario: Scenario
    costs_of: CostsOf
    notes: tuple[str, ...]  # one line each: where figures are from, and what was assumed


def make_plan(request: PlanRequest) -> None:
    """Prints the plan; measures first where asked. ConfigError where there is nothing to predict from."""
    console = Console()
    try:
        if request.calibrate:
            from orchestration.plan.measurements import calibrate

            request = request.model_copy(update={"calibration": str(calibrate(request, console))})
        print_plan(basis_of(request), request.gpus, console)
    except (ModelShapeError, HardwareError, CalibrationError) as error:
        raise ConfigError(str(error).splitlines()) from error


def print_plan(basis: Basis, numbers: tuple[int, ...], console: Console) -> None:
    """Notes, then the tables of an iteration, of memory and of scaling. numbers: of devices, ascending."""
    scenario, config, shape = basis.scenario, basis.scenario.config, basis.scenario.shape
    adapters = scenario.parameters.adapters
    adapted = f", frozen; {adapters:,} in adapters are trained" if adapters else ""
    model = f"model {shape.name}: {shape.num_parameters:,} parameters in {shape.layers} layers{adapted}"
    for note in (model, *basis.notes):
        print_line(console, note)
    least = MIN_STALENESS if config.rollout.batch_order == "finished" else 0
    found = {}
    for staleness in sorted({config.max_staleness, *STALENESS} - set(range(least))):
        workload = scenario.workload(max_staleness=staleness)
        found[staleness] = predict(workload, basis.costs_of(workload))
    console.print("", iteration_table(found, own=config.max_staleness, completions=workload.completions), sep="\n")
    console.print("", memory_table(scenario), "", sep="\n")
    points = best_splits(scenario, numbers, lambda workload: replace(basis.costs_of(workload), pair_rate=None))
    if points:
        console.print(scaling_table(points))
        print_line(console, stop_line(points, where_it_stops(points)))
    else:
        workers = config.rollout.tensor_parallel_size
        most_ranks = max(numbers) - workers
        misfit = (
            scenario.misfit(most_ranks) if most_ranks > 0 else f"an engine takes {workers}, and none is left for a rank"
        )
        print_line(console, f"scaling: none of {', '.join(map(str, numbers))} devices hold the run: {misfit}")


def basis_of(request: PlanRequest) -> Basis:
    """A calibration, a data sheet, or the first with memory and wires of the second."""
    shape = model_shape(request.config.model)
    hardware = None if request.hardware is None else load_hardware(request.hardware)
    if hardware is not None and request.calibration is None:
        return _from_hardware(request, shape, hardware)
    path = calibration_path(request, shape)
    if request.calibration is None and not path.is_file():
        raise CalibrationError(
            f"calibration: this machine has not been measured with model.path={request.config.model.path}; add "
            f"--calibrate to measure it, or count from a data sheet with hardware=h100"
        )
    calibration = load_calibration(path)
    costs, device_bytes = calibration.costs, None
    speed = 1e-9 / costs.wire.byte_s
    wires = f"bytes between devices at {speed:.2g} GB/s, as in the measured publish; name hardware= for others"
    if hardware is not None:
        costs, device_bytes = replace(costs, wire=hardware.wire), hardware.memory_bytes
        wires = f"memory and wires from {hardware.name}: {hardware.source}"
    scenario, notes = _scenario(request, shape, calibration, device_bytes=device_bytes)
    require_measured(calibration, scenario, path)
    errors = ", ".join(f"{name} {error:.0%}" for name, error in calibration.errors.items())
    source = f"from {path}: {calibration.machine}; mean error of its fits: {errors}"
    return Basis(scenario=scenario, costs_of=lambda _: costs, notes=(source, wires, *notes))


def _from_hardware(request: PlanRequest, shape: ModelShape, hardware: Hardware) -> Basis:
    scenario, notes = _scenario(request, shape, hardware, device_bytes=hardware.memory_bytes)
    told = [f"from the data sheet of {hardware.name}: {hardware.source}"]
    if hardware.is_at_peak:
        told.append(
            "at its peak figures: real times are longer, requests, launches and grading cost nothing here; give shares "
            "in a file of your own, or measure with --calibrate"
        )
    return Basis(scenario=scenario, costs_of=partial(costs_from_hardware, hardware, scenario), notes=(*told, *notes))


def _scenario(
    request: PlanRequest, shape: ModelShape, found: Hardware | Calibration, *, device_bytes: float | None
) -> tuple[Scenario, list[str]]:
    """The request's run, and lines about where its lengths are from."""
    config, longest, notes = request.config, request.config.rollout.max_new_tokens, []
    lengths, prompt_length = request.lengths, request.prompt_length
    if lengths is None and isinstance(found, Calibration):
        lengths = found.lengths
        mean = fmean(min(length, longest) for length in lengths)
        notes.append(f"completion lengths as the measured model has them, {mean:.1f} tokens on average")
    elif lengths is None:
        lengths = (longest,)
        notes.append(f"completion lengths: all at rollout.max_new_tokens={longest}; give lengths=[...] for others")
    if prompt_length is None and isinstance(found, Calibration):
        prompt_length = found.prompt_length
    elif prompt_length is None:
        prompt_length = config.model.max_model_len - longest
        notes.append(f"prompts: all of {prompt_length} tokens, the longest; give prompt_length=... for others")
    scenario = Scenario(
        config=config,
        shape=shape,
        device=found.device,
        device_bytes=device_bytes,
        prompt_length=prompt_length,
        lengths=tuple(min(length, longest) for length in lengths),
    )
    return scenario, notes
