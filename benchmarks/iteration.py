"""Benchmark of an iteration's stages: means of the stage timers over a short synchronous run of the real loop."""

from benchmarks.parts import BATCH
from configs.loading import load_config


def benchmark_iteration(*, repeats: int) -> dict[str, float]:
    """Mean seconds of each time/<stage>_s, and samples a second, over `repeats` iterations after a warm-up."""
    from orchestration.plan.measurements import measure_run

    config = load_config([*BATCH, "eval.num_prompts=1", "journal.tensorboard=false"])
    return measure_run(config, num_iterations=repeats)
