"""`--calibrate`: measurements of this machine, fitted and kept.

In: a PlanRequest and the model's shape. Out: the path of a Calibration's file. Parts are measured alone first; then a
synchronous run says what its parts do not add up to, and on shared devices an asynchronous one what sharing costs.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from configs.plan_command import PlanRequest
from orchestration.console import print_line, redirect_output
from orchestration.plan_measurements import measure_parts, measure_run, one_of_each
from orchestration.plan_session import device_of, machine_in_words
from orchestration.session import locate_model
from planning.calibration import (
    Calibration,
    Measurements,
    default_path,
    fit_costs,
    save_calibration,
    with_overhead,
    with_sharing,
)
from planning.model_shape import ModelShape
from planning.scenario import Scenario

REPEATS = 5  # of every measurement of a part
NUM_ITERATIONS = 8  # of a run, counted ones


def calibrate(request: PlanRequest, shape: ModelShape, console: Console) -> Path:
    """Measures with one engine and one rank, whatever the request's numbers of them."""
    config, device = one_of_each(request.config), device_of(request.config)
    path = Path(request.calibration) if request.calibration is not None else default_path(shape, device)
    with TemporaryDirectory() as folder, redirect_output(Path(folder) / "calibration.log") as quiet:
        model_path = locate_model(config.model, quiet)
        print_line(quiet, "measuring engine, learner, publish and graders ...")
        measured = measure_parts(config, model_path, repeats=REPEATS)
        scenario = _scenario(request, shape, device, measured)
        recomputes = scenario.workload().recomputes_logprobs
        costs, errors = fit_costs(measured, recomputes_logprobs=recomputes)
        print_line(quiet, "measuring a synchronous run ...")
        found = measure_run(config, num_iterations=NUM_ITERATIONS)
        costs = with_overhead(costs, scenario.workload(), iteration_s=found["time/iteration_s"])
        if device == "cpu" or config.cluster.shares_gpus:
            print_line(quiet, "measuring an asynchronous run ...")
            overlapping = one_of_each(request.config, max_staleness=1)
            found = measure_run(overlapping, num_iterations=NUM_ITERATIONS)
            workload = scenario.at_staleness(1).workload()
            costs = with_sharing(costs, workload, iteration_s=found["time/iteration_s"])
        calibration = Calibration(
            machine=machine_in_words(device),
            device=device,
            shape=shape,
            engine_dtype=scenario.engine_dtype,
            learner_dtype=scenario.learner_dtype,
            costs=costs,
            prompt_length=scenario.prompt_length,
            lengths=scenario.lengths,
            errors=errors,
        )
    save_calibration(calibration, path)
    print_line(console, f"calibration written to {path}")
    return path


def _scenario(request: PlanRequest, shape: ModelShape, device: str, measured: Measurements) -> Scenario:
    """The measured run: lengths of the largest measurement, which has the longest completions."""
    largest = max(measured.generation, key=lambda run: sum(map(sum, run.lengths)))
    return Scenario(
        config=one_of_each(request.config),
        shape=shape,
        device=device,
        device_bytes=None,
        prompt_length=largest.prompt_length,
        lengths=tuple(sorted(length for group in largest.lengths for length in group)),
    )
