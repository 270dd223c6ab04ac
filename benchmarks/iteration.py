"""Where an iteration's time goes: medians of the stage timers over a short synchronous run of the real loop."""

import json
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.parts import BATCH
from configs.loading import load_config

WARMUP_ITERATIONS = 3


def benchmark_iteration(*, repeats: int) -> dict[str, float]:
    """Median seconds of each time/<stage>_s, and samples a second, over `repeats` iterations after a warm-up."""
    from orchestration.session import train

    with TemporaryDirectory() as folder:
        train(
            load_config(
                [
                    *BATCH,
                    f"num_iterations={WARMUP_ITERATIONS + repeats}",
                    f"run_dir={Path(folder) / 'run'}",
                    "eval.num_prompts=1",
                    "journal.tensorboard=false",
                ]
            )
        )
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[WARMUP_ITERATIONS:]]
    names = [name for name in rows[0] if name.startswith(("time/", "throughput/"))]
    return {name: median(row[name] for row in rows) for name in names}
