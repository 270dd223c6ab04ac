"""The user's own code, checked before anything starts: custom gates and rewards, named by import path.

In: every configuration that a command is going to run. Out: nothing, or a ConfigError with one line for each that
cannot be used. What nobody names is not imported, so a run without a custom gate does not wait for torch here.
"""

from collections.abc import Sequence

from configs.loading import ConfigError
from configs.schema import RunConfig
from rollout.rewards.functions import unusable_rewards


def refuse_unusable_code(configs: Sequence[RunConfig]) -> None:
    """ConfigError with one line for each reward that cannot be loaded and each condition that a gate breaks."""
    if lines := dict.fromkeys(line for config in configs for line in unusable_rewards(config.reward)):
        raise ConfigError(list(lines))
    if any(config.gate.name == "custom" for config in configs):
        from orchestration.gate_notices import refuse_inadmissible  # torch

        refuse_inadmissible(configs)
