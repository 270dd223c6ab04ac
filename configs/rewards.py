"""The section that says what a completion is rewarded for.

In: a plain nested dict. Out: a frozen section. Knows names and weights; the rewards are in rollout/rewards/ and in
modules of the user's own, named by import path.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from configs.section import Section

TAKEN_NAMES = ("mean", "std")  # metrics reward/<name> that are no reward's; built-in rewards have their names too


class ExtraRewardConfig(Section):
    """A reward of one's own: function(completion_text, reference_answer) -> float."""

    function: str = Field(pattern=r"^[\w.]+:\w+$")  # package.module:function
    weight: float = 1.0


RewardName = Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]


class RewardConfig(Section):
    """reward = format_weight * format + answer_weight * answer (paper eq. 9) + sum of weight * extra reward."""

    format_weight: float = 1.0
    answer_weight: float = 1.0
    extra: dict[RewardName, ExtraRewardConfig] = Field(default={})  # reward.extra.<name>.function=package.module:name
    # handling of an extra reward that raises, is no finite number, exceeds a limit or ends its process; zero: 0 for it
    on_error: Literal["raise", "zero"] = "raise"

    @property
    def built_in_weights(self) -> dict[str, float]:
        """Weights of the built-in rewards by name: the fields `<name>_weight`."""
        return {field.removesuffix("_weight"): value for field, value in self if field.endswith("_weight")}

    @property
    def weights(self) -> dict[str, float]:
        """Weights of all rewards by name, in the order of a verdict's components: built-in ones, then one's own."""
        return self.built_in_weights | {name: extra.weight for name, extra in self.extra.items()}

    @property
    def own_functions(self) -> dict[str, str]:
        """Import paths of one's own rewards by name."""
        return {name: extra.function for name, extra in self.extra.items()}

    @property
    def counts_failures(self) -> bool:
        """Whether a reward may fail without ending the run."""
        return bool(self.extra) and self.on_error == "zero"

    def mistakes(self) -> Iterator[str]:
        for name in self.extra:
            if name in TAKEN_NAMES or name in self.built_in_weights:
                yield f"reward.extra.{name}: this name is taken in the metrics (reward/{name}); choose another one"
