"""Made-up run folders for tests of reports: known numbers in the files of a run."""

import math
from collections.abc import Sequence
from pathlib import Path

from configs.loading import dump_yaml, load_config
from orchestration.journal.json_lines import append_rows

HOSTILE = "</pre><script>alert(1)</script><img src=http://x onerror=alert(2)>\x00\x1b[31m|`*_é"


def write_run(
    folder: Path,
    *settings: str,
    rows: int | None = None,
    quality: float = 0.0,
    evaluated: bool = True,
    text: str = "<think>1</think><answer>2</answer>",
    ratio_max: float = 2.0,
) -> Path:
    """Writes a run with these settings and smooth rewards, entropy and EUR, better the higher `quality` is."""
    config = load_config(["experiment=separate_gates", "num_iterations=12", *settings, f"run_dir='{folder}'"])
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_yaml(config))
    count = config.num_iterations if rows is None else rows
    append_rows(
        folder / "metrics.jsonl", [_row(i, quality, config.seed, config.gate.name, ratio_max) for i in range(count)]
    )
    rollouts = [_rollout(index, config.seed, text) for index in range(count)]
    append_rows(folder / "rollouts.jsonl", rollouts)
    evals = [{"iteration": 0, "eval/arithmetic/pass@1": 0.125, "eval/arithmetic/length": 9.0}]
    if evaluated:
        right = 0.5 + quality + 0.01 * config.seed
        evals.append(
            {"iteration": config.num_iterations, "eval/arithmetic/pass@1": right, "eval/arithmetic/length": 21.0}
        )
    append_rows(folder / "eval.jsonl", evals)
    return folder


def write_study(study_dir: Path, gates: Sequence[str], seeds: Sequence[int], **qualities: float) -> None:
    """Writes a finished study; a gate's quality is 0 by default, and varies a little from seed to seed."""
    for gate in gates:
        for seed in seeds:
            jitter = 0.003 * math.sin(7.0 * seed + len(gate))
            quality = qualities.get(gate, 0.0) + jitter
            write_run(study_dir / f"{gate}-seed{seed}", f"gate={gate}", f"seed={seed}", quality=quality)


def _row(iteration: int, quality: float, seed: int, gate: str, ratio_max: float) -> dict[str, float]:
    progress = min(1.0, (iteration + 1) * (0.1 + quality))
    row = {
        "iteration": iteration,
        "reward/mean": 2.0 * progress + 0.001 * seed,
        "reward/format": progress,
        "reward/answer": progress,
        "completion/length_mean": 10.0 + iteration,
        "policy/entropy": 0.4 - 0.03 * iteration,
        "gate/eur": 0.7 + 0.02 * iteration,
        "gate/eur_pos": 0.7 + 0.02 * iteration,
        "gate/eur_neg": 0.6 + 0.02 * iteration,
        "ratio/variance": 0.1 / (iteration + 1) if ratio_max > 1.01 else 1e-6,
        "ratio/max": ratio_max,
        "ratio/min": 1.0 / ratio_max,
        "grad_norm": 1.0 - quality,
        "throughput/samples_per_s": 300.0 + seed,
        "time/iteration_s": 0.4,
    }
    return row if gate == "clip" else row | {"gate/tau_pos": 10.0, "gate/tau_neg": 12.0}


def _rollout(index: int, seed: int, text: str) -> dict[str, object]:
    completion = {"text": text, "reward": 1.5, "num_tokens": 9, "finished": True}
    return {
        "iteration": index,
        "position": index,
        "prompt": f"{index}+{seed}=",
        "reference_answer": str(index + seed),
        "completions": [completion, completion],
    }
