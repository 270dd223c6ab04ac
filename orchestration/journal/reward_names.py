"""Which metrics are those of single rewards: the one place that reads rewards' names out of reward/<name>."""

from collections.abc import Iterable

PREFIX = "reward/"
STATISTICS = ("reward/mean", "reward/std")  # of the weighted sum of all rewards


def reward_metrics(metrics: Iterable[str]) -> dict[str, str]:
    """Metric of each single reward by the reward's name, in the order of `metrics`, which may repeat themselves."""
    return {
        metric.removeprefix(PREFIX): metric
        for metric in metrics
        if metric.startswith(PREFIX) and metric not in STATISTICS
    }
