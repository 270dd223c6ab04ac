"""Metrics of an evaluation and their table, and one number for each problem for comparisons. Pure.

In: samples of one set, equally many of each problem. Out: metrics by the names of docs/metrics.md. The interval is over
problems: it shows how much a number would vary with other problems of the same kind.
"""

from collections.abc import Mapping, Sequence
from math import comb

import numpy as np
from rich.table import Table

from orchestration.journal.eval_rows import EvalSample
from orchestration.statistics.bootstrap import bootstrap_interval
from orchestration.terminal.console import new_table

RIGHT = 1.0  # answer verdict of a right completion
BOOTSTRAP_SEED = 0  # seed of the intervals; not that of sampling, so that they do not vary with it


def summarize(samples: Sequence[EvalSample], *, name: str) -> dict[str, float]:
    """Metrics eval/<name>/... of one set; the k of pass@k is the number of samples of each problem."""
    correct, num_samples = correct_counts(samples)
    interval = bootstrap_interval(correct / num_samples, seed=BOOTSTRAP_SEED)
    metrics = {"pass@1": interval.mean, "pass@1_low": interval.low, "pass@1_high": interval.high}
    if num_samples > 1:
        chances = [pass_at_k(num_samples, int(count), num_samples) for count in correct]
        metrics[f"pass@{num_samples}"] = float(np.mean(chances))
    metrics["format"] = float(np.mean([sample.format for sample in samples]))
    metrics["length"] = float(np.mean([sample.length for sample in samples]))
    metrics["truncated_share"] = float(np.mean([not sample.finished for sample in samples]))
    return {f"eval/{name}/{metric}": value for metric, value in metrics.items()}


def correct_counts(samples: Sequence[EvalSample]) -> tuple[np.ndarray, int]:
    """Number of right samples of each problem [N], in the order of the problems, and number of samples of each."""
    problems = np.array([sample.problem for sample in samples])
    is_right = np.array([sample.answer >= RIGHT for sample in samples])
    _, place, counts = np.unique(problems, return_inverse=True, return_counts=True)
    assert len(set(counts.tolist())) == 1, f"problems have between {counts.min()} and {counts.max()} samples"
    return np.bincount(place, weights=is_right), int(counts[0])


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Share of the k-subsets of the samples that hold a right one: 1 - C(n - c, k) / C(n, k), in [0, 1].

    Its expectation over the samples is the true pass@k for every n >= k (arXiv 2107.03374, section 2.1).
    """
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"num_correct={num_correct}: must lie in 0..num_samples={num_samples}")
    if not 1 <= k <= num_samples:
        raise ValueError(f"k={k}: must lie in 1..num_samples={num_samples}; draw more samples or lower k")
    return 1.0 - comb(num_samples - num_correct, k) / comb(num_samples, k)


def summary_table(metrics: Mapping[str, float], counts: Mapping[str, int], *, num_samples: int) -> Table:
    """Table of metrics with one row a set; counts: number of problems of each set."""
    table = new_table("set", "problems", "pass@1", "95 %", *_pass_at(num_samples), "format", "length", "cut off")
    for name, count in counts.items():
        numbers = {key.rpartition("/")[2]: value for key, value in metrics.items() if key.startswith(f"eval/{name}/")}
        table.add_row(
            name,
            f"{count:,}",
            f"{numbers['pass@1']:.1%}",
            f"{numbers['pass@1_low']:.1%} - {numbers['pass@1_high']:.1%}",
            *(f"{numbers[column]:.1%}" for column in _pass_at(num_samples)),
            f"{numbers['format']:.1%}",
            f"{numbers['length']:.1f}",
            f"{numbers['truncated_share']:.1%}",
        )
    return table


def _pass_at(num_samples: int) -> Sequence[str]:
    return [f"pass@{num_samples}"] if num_samples > 1 else []
