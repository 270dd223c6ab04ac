"""Verdicts made up for tests: values by name, all with weight 1."""

from rollout.contract import RewardComponent, RewardVerdict


def verdict_of(**values: float) -> RewardVerdict:
    """Example: verdict_of(format=1.0, answer=0.0)."""
    components = (RewardComponent(name=name, value=value, weight=1.0) for name, value in values.items())
    return RewardVerdict(components=tuple(components))
