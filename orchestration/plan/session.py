"""One plan: what it is predicted from, a calibration or the data sheet of a GPU or both, and its lines and tables.

In: a RunConfig and the planner's own words. Out: text on the console, or a ConfigError if there is nothing to predict
from. Costs from a data sheet are what the model needs, divided by what the device can do at its peak: requests, kernel
launches and grading cost nothing there, so iterations are predicted too short.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from configs.loading import ConfigError
from configs.schema import RunConfig
from orchestration.plan.calibration import device_of, kept_path, load_calibration, require_measured
from orchestration.plan.costs import Costs, EngineCosts, LearnerCosts, Workload
from orchestration.plan.scaling import WORTHWHILE, CostsOf, ScalePoint, best_splits, where_it_stops
from orchestration.plan.scenario import DTYPE_BYTES, FLOAT32_BYTES, PRESETS, Scenario, model_shape
from orchestration.plan.simulation import predict
from orchestration.terminal.console import print_line

ADAMW_ARRAYS = 7  # float32 arrays that a step reads or writes: gradient; weight and two moments, each read and written


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """Figures of one GPU."""

    name: str
    source: str  # origin of the figures
    memory_bytes: float
    operations_per_s: float  # operations of dense products in the dtype that is trained in
    memory_bytes_per_s: float
    devices_per_node: int
    node_bytes_per_s: float  # bytes from one device to the others of its node, in one direction
    network_bytes_per_s: float  # bytes from one device to other nodes, in one direction

    def wires(self) -> dict[str, Any]:
        """The fields of Costs about wires."""
        seconds = {"byte_s": 1.0 / self.node_bytes_per_s, "network_byte_s": 1.0 / self.network_bytes_per_s}
        return seconds | {"devices_per_node": self.devices_per_node}


def load_hardware(name: str) -> Hardware:
    known = yaml.safe_load((PRESETS / "hardware.yaml").read_text(encoding="utf-8"))
    if name not in known:
        remedy = f"add others to {PRESETS / 'hardware.yaml'}"
        raise ConfigError([f"hardware={name}: must be one of {', '.join(known)}; {remedy}"])
    return Hardware(**known[name])


def costs_from_hardware(hardware: Hardware, scenario: Scenario, workload: Workload) -> Costs:
    """Costs of the scenario's model with the workload's numbers of engines and ranks.

    Memory and arithmetic are not overlapped. A backward pass takes twice a forward pass's operations.
    """
    shape, engine_bytes = scenario.shape, DTYPE_BYTES[scenario.engine_dtype]
    token_s = 2.0 * shape.multiplied_parameters / hardware.operations_per_s  # a product and a sum a parameter
    pair_s = 4.0 * shape.layers * shape.query_width / hardware.operations_per_s  # a score and a weighted value
    engine_token_s = token_s / workload.workers_per_engine
    engine_bytes_per_s = hardware.memory_bytes_per_s * workload.workers_per_engine
    # checkpointing runs the forward pass again
    passes = 4 if scenario.config.learner.gradient_checkpointing else 3
    optimizer_ranks = workload.num_ranks if workload.zero_stage >= 1 else 1
    optimizer_bytes = ADAMW_ARRAYS * FLOAT32_BYTES * shape.num_parameters / optimizer_ranks
    return Costs(
        engine=EngineCosts(
            step_s=shape.multiplied_parameters * engine_bytes / engine_bytes_per_s,
            sequence_s=engine_token_s,
            context_token_s=shape.kv_elements * engine_bytes / engine_bytes_per_s,
            prompt_token_s=engine_token_s,
        ),
        learner=LearnerCosts(
            step_s=optimizer_bytes / hardware.memory_bytes_per_s,
            token_s=passes * token_s,
            pair_s=passes * pair_s / 2,  # causal: half of the pairs
            scoring_share=1.0 / passes,
        ),
        publishes_by_tree=False,
        **hardware.wires(),
    )


def basis_of(
    config: RunConfig,
    *,
    hardware: str | None = None,
    calibration: str | None = None,
    lengths: tuple[int, ...] | None = None,
    prompt_length: int | None = None,
) -> tuple[Scenario, CostsOf, list[str]]:
    """The run, its costs, and lines that name the origin of the figures."""
    shape, longest = model_shape(config.model.path), config.rollout.max_new_tokens
    sheet = None if hardware is None else load_hardware(hardware)
    path = Path(calibration) if calibration else None if sheet else kept_path(shape, device_of(config))
    measured = load_calibration(path) if path else None
    lengths = lengths or (measured.lengths if measured else (longest,))
    scenario = Scenario(
        config=config,
        shape=shape,
        device=measured.device if measured else "gpu",
        device_bytes=sheet.memory_bytes if sheet else None,
        prompt_length=prompt_length or (measured.prompt_length if measured else config.model.max_model_len - longest),
        lengths=tuple(min(length, longest) for length in lengths),
    )
    notes = [
        f"model {shape.name}: {shape.num_parameters:,} parameters in {shape.layers} layers",
        f"prompts of {scenario.prompt_length} tokens (prompt_length=), completions of {fmean(scenario.lengths):.1f} on "
        f"average (lengths=[...])",
    ]
    if sheet:
        used = "memory and wires" if measured else "everything"
        notes.append(f"{used} from the peak figures of {sheet.name}, which no machine reaches: {sheet.source}")
    if measured is None or path is None:
        assert sheet is not None
        return scenario, partial(costs_from_hardware, sheet, scenario), notes
    require_measured(measured, scenario, path)
    costs = replace(measured.costs, **sheet.wires()) if sheet else measured.costs
    errors = ", ".join(f"{name} {error:.0%}" for name, error in measured.errors.items())
    notes.append(f"times from {path}, measured on {measured.device}; mean error of its fits: {errors}")
    return scenario, lambda _: costs, notes


def print_plan(
    scenario: Scenario, costs_of: CostsOf, notes: Sequence[str], *, numbers: Sequence[int], console: Console
) -> None:
    """Prints the plan for these numbers of devices, ascending."""
    workload = scenario.workload()
    times = predict(workload, costs_of(workload))
    stages = ", ".join(f"{name.removesuffix('_s')} {seconds(value)}" for name, value in asdict(times).items())
    rate = f"{workload.completions / times.iteration_s:,.0f} samples/s"
    run = f"{workload.completions} completions at max_staleness={workload.max_staleness}"
    for line in (*notes, f"time of {run}: {stages}; {rate}", *memory_lines(scenario)):
        print_line(console, line)
    points = best_splits(scenario, numbers, lambda workload: replace(costs_of(workload), pair_rate=None))
    if points:
        title = "The same batch on more devices, each engine and rank with its own"
        table = Table("devices", title=title, title_justify="left", box=None, pad_edge=False, min_width=len(title))
        for column in ("engines", "ranks", "iteration", "samples/s"):
            table.add_column(column, justify="right")
        for point in points:
            split = (point.num_devices, point.workload.num_engines, point.workload.num_ranks)
            speed = (seconds(point.times.iteration_s), f"{point.samples_per_s:,.0f}")
            table.add_row(*(f"{number:,}" for number in split), *speed)
        console.print(table)
    print_line(console, scaling_line(scenario, numbers, points))


def memory_lines(scenario: Scenario) -> list[str]:
    """Lines of the bytes that a rank and an engine's worker hold, and whether they fit."""
    num_ranks = scenario.config.learner.num_workers
    rank, engine = scenario.learner_memory(num_ranks), scenario.engine_memory()
    parts = ", ".join(f"{name} {decimal(int(size))}" for name, size in rank.items() if size)
    lines = [f"memory of a learner rank, 1 of {num_ranks}: {decimal(int(sum(rank.values())))} ({parts})"]
    if engine is None:
        return [*lines, "memory of an engine worker: unknown; give hardware= for the memory of a device"]
    cache = f"key/value cache {decimal(int(engine.kv_cache))}: {engine.kv_tokens:,} tokens"
    longest = f"{engine.longest_sequences:,} sequences of {scenario.config.model.max_model_len}"
    lines.append(f"memory of an engine worker: weights {decimal(int(engine.weights))}, {cache}, {longest}")
    misfit = scenario.misfit(num_ranks)
    return [*lines, f"does not fit: {misfit}"] if misfit else lines


def scaling_line(scenario: Scenario, numbers: Sequence[int], points: Sequence[ScalePoint]) -> str:
    """The line that says where scaling stops, or why no number of devices holds the run."""
    if not points:
        workers = scenario.config.rollout.tensor_parallel_size
        most_ranks = max(numbers) - workers
        none_left = f"an engine takes {workers}, and none is left for a rank"
        misfit = scenario.misfit(most_ranks) if most_ranks > 0 else none_left
        return f"scaling: none of {', '.join(map(str, numbers))} devices hold the run: {misfit}"
    if stop := where_it_stops(points):
        gain = f"no larger number is {WORTHWHILE - 1:.0%} faster"
        return f"scaling stops at {stop.num_devices:,} devices: {gain}; a larger batch would use more"
    return f"up to {points[-1].num_devices:,} devices more of them help"


def seconds(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f} s"
    return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"
