"""What a run must have left behind whatever happened to it, and what a synchronous one shares with an undisturbed run.

In: folders of finished runs. Out: one line for each promise that was broken.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Metrics that depend on the clock or on what happened.
VARYING = ("time/", "idle/", "throughput/", "/tokens_per_s", "gigabytes_per_s", "memory/", "engine/paused", "faults/")
MODEL_FILE = "model/model.safetensors"
FIRST_SHOWN = 3  # differences named of each kind


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def fixed(row: dict[str, float]) -> dict[str, float]:
    """A row of metrics without what depends on the clock or on what happened."""
    return {name: value for name, value in row.items() if not any(part in name for part in VARYING)}


def broken_promises(run_dir: Path, *, num_iterations: int, num_prompts: int, max_staleness: int) -> Iterator[str]:
    """Broken promises of a run that records all groups: each position trained once and in order, none too old."""
    rows = rows_of(run_dir / "metrics.jsonl")
    if [row["iteration"] for row in rows] != list(range(num_iterations)):
        yield f"metrics.jsonl has the iterations {[row['iteration'] for row in rows]}"
    for row in rows:
        if row["policy_version"] != row["iteration"]:
            yield f"iteration {row['iteration']}: was trained from policy version {row['policy_version']}"
        if row["staleness/max"] > max_staleness:
            yield f"iteration {row['iteration']}: staleness {row['staleness/max']} above the bound of {max_staleness}"
    groups = rows_of(run_dir / "rollouts.jsonl")
    trained = [(group["iteration"], group["position"]) for group in groups]
    expected = [(position // num_prompts, position) for position in range(num_iterations * num_prompts)]
    if trained != expected:
        missing, more = sorted(set(expected) - set(trained)), sorted(set(trained) - set(expected))
        twice = sorted({pair for pair in trained if trained.count(pair) > 1})
        told = f"missing {missing}, not planned {more}, more than once {twice}, or in disorder"
        yield f"(iteration, position) trained: {told}"
    for group in groups:
        oldest = min(completion["min_policy_version"] for completion in group["completions"])
        if not group["iteration"] - max_staleness <= oldest <= group["iteration"]:
            where = f"iteration {group['iteration']}, position {group['position']}"
            yield f"{where}: was sampled by policy version {oldest}"


def differences(run_dir: Path, undisturbed: Path) -> Iterator[str]:
    """Differences of a synchronous run from the undisturbed one: metrics, texts, evaluations, weights."""
    for name in ("metrics.jsonl", "eval.jsonl"):
        pairs = zip(rows_of(run_dir / name), rows_of(undisturbed / name), strict=False)
        unequal = [
            f"{name}, iteration {row['iteration']}: {key} is {fixed(row).get(key)}, undisturbed {fixed(other).get(key)}"
            for row, other in pairs
            for key in sorted(fixed(row).keys() | fixed(other).keys())
            if fixed(row).get(key) != fixed(other).get(key)
        ]
        yield from unequal[:FIRST_SHOWN]
        numbers = [len(rows_of(folder / name)) for folder in (run_dir, undisturbed)]
        if numbers[0] != numbers[1]:
            yield f"{name} has {numbers[0]} rows, undisturbed {numbers[1]}"
    texts, others = (
        {group["position"]: group["completions"] for group in rows_of(folder / "rollouts.jsonl")}
        for folder in (run_dir, undisturbed)
    )
    other_texts = sorted(position for position in others if texts.get(position) != others[position])
    if other_texts:
        yield f"rollouts.jsonl: other completions at positions {other_texts[:FIRST_SHOWN]}"
    if (run_dir / MODEL_FILE).read_bytes() != (undisturbed / MODEL_FILE).read_bytes():
        yield f"{MODEL_FILE} has other bytes than that of the undisturbed run"
