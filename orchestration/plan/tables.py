"""How a plan reads on a terminal: tables that fit 100 characters. In: predictions. Out: rich tables and lines."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.table import Table

from orchestration.plan.scaling import ScalePoint, Stop
from orchestration.plan.scenario import Scenario
from orchestration.plan.simulation import Prediction

UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def iteration_table(found: Mapping[int, Prediction], *, own: int, completions: int) -> Table:
    """A row for each max_staleness; that of the configuration is marked."""
    title = f"An iteration of {completions} completions with the configured engines and ranks (*: max_staleness as set)"
    table = _table(title, "staleness iteration samples/s generate load update publish learner engines".split())
    for staleness, each in found.items():
        mean = each.mean
        stages = (mean.generate_s, mean.load_s, mean.update_s, mean.publish_s)
        table.add_row(
            f"{staleness}{' *' if staleness == own else ''}",
            seconds(mean.iteration_s),
            f"{completions / mean.iteration_s:,.0f}",
            *(seconds(stage) for stage in stages),
            f"{each.learner_busy:.0%}",
            f"{each.engines_busy:.0%}",
        )
    table.caption = "learner, engines: share of the iteration in which they compute"
    return table


def memory_table(scenario: Scenario) -> Table:
    """What a rank and an engine's worker hold, beside what libraries keep for themselves."""
    num_ranks = scenario.config.learner.num_workers
    rank, engine = scenario.learner_memory(num_ranks), scenario.engine_memory()
    table = _table("Memory, counted from tensors", ["on", "total", "weights", "of it, beside weights"])
    parts = [f"{name} {num_bytes(size)}" for name, size in asdict(rank).items() if size and name != "weights"]
    table.add_row(f"learner rank, 1 of {num_ranks}", num_bytes(rank.total), num_bytes(rank.weights), ", ".join(parts))
    if engine is None:
        table.add_row("engine worker", "unknown", "", "give hardware= for the memory of a device")
    else:
        cache = (
            f"key/value cache {num_bytes(engine.kv_cache)}: {engine.kv_tokens:,} tokens, "
            f"{engine.longest_sequences:,} sequences of {scenario.config.model.max_model_len}"
        )
        table.add_row("engine worker", num_bytes(engine.total), num_bytes(engine.weights), cache)
    misfit = scenario.misfit(num_ranks)
    table.caption = f"does not fit: {misfit}" if misfit else None
    return table


def scaling_table(points: Sequence[ScalePoint]) -> Table:
    """The best split of each number of devices; efficiency is speed a device over that of the first row."""
    title = "The same batch on more devices, each engine and rank with its own"
    table = _table(title, [*"devices engines ranks iteration samples/s efficiency".split(), "does not shrink"])
    first = points[0].samples_per_s / points[0].num_devices
    for point in points:
        table.add_row(
            f"{point.num_devices:,}",
            f"{point.workload.num_engines:,}",
            f"{point.workload.num_ranks:,}",
            seconds(point.prediction.mean.iteration_s),
            f"{point.samples_per_s:,.0f}",
            f"{point.samples_per_s / point.num_devices / first:.0%}",
            f"{point.floor_share:.0%}: {point.floor}",
        )
    return table


def stop_line(points: Sequence[ScalePoint], stop: Stop | None) -> str:
    """Where more devices stop to help, and why."""
    if stop is not None:
        gain = max(0.0, stop.gain - 1)
        return (
            f"scaling stops at {stop.point.num_devices:,} devices: no larger number is more than {gain:.0%} faster. "
            f"Largest part that does not shrink: {stop.point.floor}; a larger batch (rollout.prompts_per_iteration) "
            f"would use more"
        )
    if len(points) == 1:
        return "name several numbers, as gpus=2,8,32, to see where scaling stops"
    return f"up to {points[-1].num_devices:,} devices more of them help"


def seconds(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f} s"
    return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"


def num_bytes(value: float) -> str:
    for size, unit in UNITS:
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"


def _table(title: str, columns: Sequence[str]) -> Table:
    """The first column holds names; a column of text comes last, and may wrap."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.caption_justify = "left"
    for column in columns:
        is_text = column.startswith(("of it", "does not"))
        table.add_column(column, justify="left" if is_text or column == columns[0] else "right", no_wrap=not is_text)
    return table
