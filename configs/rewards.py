"""The section that says what a completion is rewarded for.

In: a plain nested dict. Out: a frozen section. Knows names and weights; the rewards are in rollout/rewards/ and in
modules of the user's own, named by import path.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.section import Section

TAKEN_NAMES = ("mean", "std", "format", "answer")  # reward/<name> in the metrics


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
    # of an extra reward that raises, is no finite number, or runs into graders.timeout_s; zero: it counts as 0
    on_error: Literal["raise", "zero"] = "raise"

    @model_validator(mode="after")
    def _names_are_free(self) -> "RewardConfig":
        wrong = [
            f"reward.extra.{name}: this name is taken in the metrics (reward/{name}); choose another one"
            for name in self.extra
            if name in TAKEN_NAMES
        ]
        if wrong:
            raise ValueError("\n".join(wrong))
        return self
