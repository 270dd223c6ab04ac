"""One plan from its request to its tables: what it is predicted from, and what is said about that.

In: a PlanRequest. Out: tables on the terminal; with --calibrate a file that later plans start from. Looks up or makes a
calibration, or counts from a data sheet; all arithmetic is in the files beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from configs.loading import ConfigError
from configs.tasks import DataTaskConfig
from orchestration.plan.calibration_file import (
    Calibration,
    CalibrationError,
    default_path,
    load_calibration,
    require_adapters,
    require_dtypes,
    require_model,
)
from orchestration.plan.command import PlanRequest
from orchestration.plan.costs import Costs, WireCosts
from orchestration.plan.hardware import Hardware, HardwareError, load_hardware
from orchestration.plan.machine import device_of, model_shape
from orchestration.plan.model_shape import ModelShape, ModelShapeError
from orchestration.plan.roofline import costs_from_hardware
from orchestration.plan.scaling import CostsOf, best_splits, where_it_stops
from orchestration.plan.scenario import Scenario
from orchestration.plan.simulation import Workload, predict
from orchestration.plan.tables import iteration_table, memory_table, scaling_table, stop_line
from orchestration.plan.trained import trained_parameters
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
        shape = model_shape(request.config)
        if request.calibrate:
            from orchestration.plan.calibrate import calibrate

            path = calibrate(request, shape, console)
            request = replace(request, calibration=str(path))
        basis = basis_of(request, shape)
    except (ModelShapeError, HardwareError, CalibrationError) as error:
        raise ConfigError(str(error).splitlines()) from error
    print_plan(basis, request.num_devices, console)


def print_plan(basis: Basis, num_devices: tuple[int, ...], console: Console) -> None:
    """Notes, then the tables of an iteration, of memory and of scaling."""
    scenario = basis.scenario
    for note in basis.notes:
        print_line(console, note)
    own = scenario.config.max_staleness
    found = {}
    least = MIN_STALENESS if scenario.config.rollout.batch_order == "finished" else 0
    for staleness in sorted({own, *STALENESS} - set(range(least))):
        workload = scenario.at_staleness(staleness).workload()
        found[staleness] = predict(workload, basis.costs_of(workload))
    completions = scenario.config.rollout.prompts_per_iteration * scenario.config.rollout.completions_per_prompt
    console.print()
    console.print(iteration_table(found, own=own, completions=completions))
    console.print()
    console.print(memory_table(scenario))
    points = best_splits(scenario, num_devices, _unshared(basis.costs_of))
    console.print()
    if not points:
        most_ranks = max(num_devices) - scenario.config.rollout.tensor_parallel_size
        misfit = scenario.misfit(most_ranks) if most_ranks > 0 else None
        misfit = (
            misfit or f"an engine takes {scenario.config.rollout.tensor_parallel_size}, and none is left for a rank"
        )
        print_line(console, f"scaling: none of {', '.join(map(str, num_devices))} devices hold the run: {misfit}")
        return
    console.print(scaling_table(points))
    print_line(console, stop_line(points, where_it_stops(points)))


def basis_of(request: PlanRequest, shape: ModelShape) -> Basis:
    """A calibration, a data sheet, or the first with memory and wires of the second."""
    hardware = load_hardware(request.hardware) if request.hardware is not None else None
    if hardware is not None and request.calibration is None:
        return _from_hardware(request, shape, hardware)
    device = device_of(request.config)
    path = Path(request.calibration) if request.calibration is not None else default_path(shape, device)
    if request.calibration is None and not path.is_file():
        raise CalibrationError(
            f"calibration: this machine has not been measured with model.path={request.config.model.path}; add "
            f"--calibrate to measure it, or count from a data sheet with hardware=h100"
        )
    calibration = load_calibration(path)
    require_model(calibration, shape, path)
    return _from_calibration(request, shape, calibration, path, hardware)


def _from_hardware(request: PlanRequest, shape: ModelShape, hardware: Hardware) -> Basis:
    lengths, prompt_length, notes = _lengths(request, None)
    scenario = Scenario(
        config=request.config,
        shape=shape,
        device=hardware.device,
        device_bytes=hardware.memory_bytes,
        prompt_length=prompt_length,
        lengths=lengths,
    )

    def costs_of(workload: Workload) -> Costs:
        return costs_from_hardware(
            shape,
            hardware,
            engine_dtype=scenario.engine_dtype,
            learner_dtype=scenario.learner_dtype,
            workers_per_engine=workload.workers_per_engine,
            trained=workload.trained_parameters,
            optimizer_ranks=workload.num_ranks if workload.zero_stage >= 1 else 1,
            checkpointing=request.config.learner.gradient_checkpointing,
        )

    told = [f"from the data sheet of {hardware.name}: {hardware.source}"]
    if hardware.is_at_peak:
        told.append(
            "at its peak figures: real times are longer, requests, launches and grading cost nothing here; give shares "
            "in a file of your own, or measure with --calibrate"
        )
    return Basis(scenario=scenario, costs_of=costs_of, notes=(_model_line(scenario), *told, *notes))


def _from_calibration(
    request: PlanRequest, shape: ModelShape, calibration: Calibration, path: Path, hardware: Hardware | None
) -> Basis:
    lengths, prompt_length, notes = _lengths(request, calibration)
    costs = calibration.costs
    errors = ", ".join(f"{name} {error:.0%}" for name, error in calibration.errors.items())
    told = [f"from {path}: {calibration.machine}; mean error of its fits: {errors}"]
    if hardware is not None:
        wire = WireCosts(
            byte_s=1.0 / (hardware.node_bytes_per_s * hardware.wire_share),
            network_byte_s=1.0 / (hardware.network_bytes_per_s * hardware.wire_share),
            devices_per_node=hardware.devices_per_node,
        )
        costs = replace(costs, wire=wire)
        told.append(f"memory and wires from {hardware.name}: {hardware.source}")
    else:
        speed = 1e-9 / costs.wire.byte_s
        told.append(f"bytes between devices at {speed:.2g} GB/s, as in the measured publish; name hardware= for others")
    scenario = Scenario(
        config=request.config,
        shape=shape,
        device=calibration.device,
        device_bytes=None if hardware is None else hardware.memory_bytes,
        prompt_length=prompt_length,
        lengths=lengths,
    )
    require_dtypes(calibration, engine=scenario.engine_dtype, learner=scenario.learner_dtype, path=path)
    require_adapters(calibration, request.config.learner.lora, path)
    return Basis(scenario=scenario, costs_of=lambda _: costs, notes=(_model_line(scenario), *told, *notes))


def _lengths(request: PlanRequest, calibration: Calibration | None) -> tuple[tuple[int, ...], int, list[str]]:
    """Completion lengths, prompt length, and lines that say where they are from."""
    config, notes = request.config, []
    longest = config.rollout.max_new_tokens
    if request.lengths is not None:
        lengths = _cut_off(request.lengths, longest)
    elif calibration is not None:
        lengths = _cut_off(calibration.lengths, longest)
        notes.append(
            f"completion lengths as the measured model has them, {sum(lengths) / len(lengths):.1f} tokens on average"
        )
    else:
        lengths = (longest,)
        notes.append(f"completion lengths: all at rollout.max_new_tokens={longest}; give lengths=[...] for others")
    if request.prompt_length is not None:
        return lengths, request.prompt_length, notes
    if calibration is not None:
        return lengths, calibration.prompt_length, notes
    room = config.model.max_model_len - longest
    prompt_length = config.task.max_prompt_tokens if isinstance(config.task, DataTaskConfig) else room
    notes.append(f"prompts: all of {prompt_length} tokens, the longest; give prompt_length=... for others")
    return lengths, prompt_length, notes


def _cut_off(lengths: Sequence[int], max_new_tokens: int) -> tuple[int, ...]:
    return tuple(min(length, max_new_tokens) for length in lengths)


def _model_line(scenario: Scenario) -> str:
    shape = scenario.shape
    line = f"model {shape.name}: {shape.num_parameters:,} parameters in {shape.layers} layers"
    adapters = trained_parameters(shape, scenario.config.learner.lora).adapters
    return f"{line}, frozen; {adapters:,} in adapters are trained" if adapters else line


def _unshared(costs_of: CostsOf) -> CostsOf:
    """Every engine and rank with a device of its own."""
    return lambda workload: replace(costs_of(workload), rates=())
