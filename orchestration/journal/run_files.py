"""Names of files in the folders of a run and a study, and of metrics in them; docs/metrics.md describes both."""

from collections.abc import Iterable
from pathlib import Path

METRICS_FILE = "metrics.jsonl"
CONFIG_FILE = "config.yaml"
LOG_FILE = "run.log"
ROLLOUTS_FILE = "rollouts.jsonl"
EVAL_FILE = "eval.jsonl"
NOTICES_FILE = "notices.jsonl"
TRACE_FILE = "trace.json"
CHECKPOINT_FOLDER = "checkpoints"
CHECKPOINT_LOG = "checkpoints.jsonl"  # one row a checkpoint that was written
LOG_FOLDER = "logs"  # folder of a study with one log for each arm
SUM_STATISTICS = ("reward/mean", "reward/std")  # metrics of the weighted sum of all rewards


def reward_metrics(metrics: Iterable[str]) -> dict[str, str]:
    """Metric of each single reward by the reward's name, in the order of `metrics`, which may repeat themselves."""
    rewards = (metric for metric in metrics if metric.startswith("reward/") and metric not in SUM_STATISTICS)
    return {metric.removeprefix("reward/"): metric for metric in rewards}


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log; none where there is no log."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 200 * count))
        return file.read().decode("utf-8", errors="replace").splitlines()[-count:]
