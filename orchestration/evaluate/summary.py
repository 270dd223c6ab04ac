"""Metrics of an evaluation, and one number for each problem for comparisons. Pure.

In: samples of one set, equally many of each problem. Out: metrics by the names of docs/metrics.md. The interval is over
problems: it shows how much a number would vary with other problems of the same kind.
"""

from collections.abc import Sequence

import numpy as np

from orchestration.journal.eval_rows import EvalSample
from orchestration.statistics.bootstrap import bootstrap_interval
from orchestration.statistics.pass_at_k import pass_at_k

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
