"""`--calibrate`: measurements of this machine, fitted and kept.

In: a PlanRequest and the model's shape. Out: the path of a Calibration's file. Parts are measured alone first; then
synchronous runs say what their parts do not add up to, and on shared devices an asynchronous one what sharing costs.
"""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from configs.schema import RunConfig
from orchestration.model_location import locate_model
from orchestration.plan.calibration import MeasuredRun, Measurements, fit_costs, fit_runs
from orchestration.plan.calibration_file import Calibration, default_path, save_calibration
from orchestration.plan.command import PlanRequest
from orchestration.plan.machine import device_of, machine_in_words
from orchestration.plan.measurements import measure_parts, measure_run, one_of_each
from orchestration.plan.model_shape import ModelShape
from orchestration.plan.scenario import Scenario
from orchestration.terminal.console import print_line, redirect_output

REPEATS = 5  # of every measurement of a part
NUM_ITERATIONS = 10  # of a run, counted ones
RUN_FACTORS = (0.5, 2.0)  # of rollout.prompts_per_iteration, of synchronous runs


def calibrate(request: PlanRequest, shape: ModelShape, console: Console) -> Path:
    """Measures with one engine and one rank, whatever the request's numbers of them."""
    config, device = one_of_each(request.config), device_of(request.config)
    path = Path(request.calibration) if request.calibration is not None else default_path(shape, device)
    with TemporaryDirectory() as folder, redirect_output(Path(folder) / "calibration.log") as quiet:
        model_path = locate_model(config.model, quiet)
        print_line(quiet, "measuring engine, learner, publish and graders ...")
        measured = measure_parts(config, model_path, repeats=REPEATS)
        scenario = _scenario(config, shape, device, measured)
        costs, errors = fit_costs(measured, recomputes_logprobs=scenario.workload().recomputes_logprobs)
        runs = [_measured_run(scenario, quiet, prompts_factor=factor) for factor in RUN_FACTORS]
        if device == "cpu" or config.cluster.shares_gpus:
            runs.append(_measured_run(scenario, quiet, max_staleness=1))
        calibration = Calibration(
            machine=machine_in_words(device),
            device=device,
            shape=shape,
            engine_dtype=scenario.engine_dtype,
            learner_dtype=scenario.learner_dtype,
            lora=config.learner.lora,
            costs=fit_runs(costs, runs),
            prompt_length=scenario.prompt_length,
            lengths=scenario.lengths,
            errors=errors,
        )
    save_calibration(calibration, path)
    print_line(console, f"calibration written to {path}")
    return path


def _measured_run(
    scenario: Scenario, console: Console, *, prompts_factor: float = 1.0, max_staleness: int = 0
) -> MeasuredRun:
    config = one_of_each(scenario.config, prompts_factor=prompts_factor, max_staleness=max_staleness)
    prompts, order = config.rollout.prompts_per_iteration, "an asynchronous" if max_staleness else "a synchronous"
    print_line(console, f"measuring {order} run of {prompts} prompts an iteration ...")
    found = measure_run(config, num_iterations=NUM_ITERATIONS)
    workload = replace(scenario, config=config).workload()
    return MeasuredRun(workload=workload, iteration_s=found["time/iteration_s"])


def _scenario(config: RunConfig, shape: ModelShape, device: str, measured: Measurements) -> Scenario:
    """The measured run, with the lengths of the largest measurement."""
    largest = measured.generation[-1]
    return Scenario(
        config=config,
        shape=shape,
        device=device,
        device_bytes=None,
        prompt_length=largest.prompt_length,
        lengths=tuple(sorted(length for group in largest.lengths for length in group)),
    )
