"""Rewards, lengths and staleness of a batch of graded groups, under their names in metrics.jsonl.

In: GradedGroups. Out: one number a name. Knows nothing of where groups come from.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rollout.contract import GradedGroup


def group_metrics(groups: Sequence[GradedGroup], *, policy_version: int) -> dict[str, float]:
    """The metrics of one iteration's batch.

    policy_version is the learner's version when the batch is consumed. Means run over completions, so all groups having
    the same G count alike; zero variance is counted over groups.
    """
    assert groups, "an iteration has at least one group"
    completions = [completion for item in groups for completion in item.group.completions]
    values = [verdict.values for item in groups for verdict in item.verdicts]
    rewards = np.concatenate([item.rewards for item in groups])
    staleness = [policy_version - completion.tokens.min_policy_version for completion in completions]
    tokens_behind: Counter[int] = Counter()
    for completion in completions:
        for version, count in completion.tokens.tokens_by_version().items():
            tokens_behind[policy_version - version] += count
    assert min(staleness) >= 0, f"staleness {min(staleness)}: version {policy_version} is older than a completion's"
    return {
        "reward/mean": float(rewards.mean()),
        "reward/std": float(rewards.std()),
        **{f"reward/{name}": float(np.mean([each[name] for each in values])) for name in values[0]},
        "completion/length_mean": float(np.mean([completion.tokens.num_sampled for completion in completions])),
        "completion/truncated_share": float(np.mean([not completion.finished for completion in completions])),
        "group/zero_variance_share": float(np.mean([np.ptp(item.rewards) == 0.0 for item in groups])),
        "staleness/mean": float(np.mean(staleness)),
        "staleness/max": float(max(staleness)),
        **{f"staleness/share@{behind}": count / tokens_behind.total() for behind, count in tokens_behind.items()},
    }
