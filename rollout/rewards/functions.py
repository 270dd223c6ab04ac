"""The verdict on a completion: one component for each reward that a run is configured with.

In: the `reward` section. Out: a function from (completion text, reference answer) to a RewardVerdict, for the grader
children. Knows no reward by name, and nothing of processes and time limits.
"""

from collections.abc import Callable
from dataclasses import replace

from configs.rewards import RewardConfig
from rollout.contract import RewardComponent, RewardVerdict
from rollout.rewards.built_in import BUILT_IN
from rollout.rewards.own import RewardError, load_own

RewardFunction = Callable[[str, str], RewardVerdict]  # (completion text, reference answer)
# Called before each of the user's own rewards with its name and the verdict in which it and those after it have failed.
Announce = Callable[[str, RewardVerdict], None]


def make_reward(settings: dict[str, object], announce: Announce) -> RewardFunction:
    """The reward of the `reward` section, given as plain values."""
    config = RewardConfig.model_validate(settings)
    own = {name: load_own(name, path) for name, path in config.own_functions.items()}
    zeros = {component.name: component for component in zero_verdict(config).components}

    def grade(completion_text: str, reference_answer: str) -> RewardVerdict:
        components = zeros | {name: replace(zeros[name], failed=True) for name in own}
        for name, reward in BUILT_IN.items():
            components[name] = replace(zeros[name], value=reward(completion_text, reference_answer))
        for name, reward in own.items():
            announce(name, RewardVerdict(components=tuple(components.values())))
            try:
                components[name] = replace(zeros[name], value=reward(completion_text, reference_answer))
            except RewardError:
                if config.on_error == "raise":
                    raise
        return RewardVerdict(components=tuple(components.values()))

    return grade


def zero_verdict(config: RewardConfig) -> RewardVerdict:
    """The verdict on a completion that met a limit before its rewards were known: each of them is 0."""
    return RewardVerdict(
        components=tuple(
            RewardComponent(name=name, value=0.0, weight=weight) for name, weight in config.weights.items()
        )
    )
