"""The section `objective`: options of the objective beside the gate.

In: a plain nested dict. Out: a frozen section, and lines for settings that do not fit the rest of the tree. Knows names
and bounds of settings; the equations are in learner/loss/terms.py and docs/objective.md. The defaults are the paper's.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from configs.section import Section


class ObjectiveConfig(Section):
    """Advantages, ratio, KL, entropy, overlong completions and correction; docs/objective.md has the equations."""

    # group_std: (R - mean) / std; group_mean: R - mean; leave_one_out: R - mean of the group's others
    advantage: Literal["group_std", "group_mean", "leave_one_out"] = "group_std"
    ratio: Literal["token", "sequence"] = "token"  # sequence: exp of the completion's mean log-ratio
    kl_coef: float = Field(default=0.0, ge=0.0)  # factor of the KL to the initial model; 0: the model is not loaded
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    entropy_coef: float = Field(default=0.0, ge=0.0)  # factor of the entropy bonus
    # completions cut off at rollout.max_new_tokens; mask: leave them out of the loss; punish: see overlong_buffer
    overlong: Literal["keep", "mask", "punish"] = "keep"
    overlong_buffer: int = Field(default=0, ge=0)  # last tokens over which punish lowers the reward, from 0 to -1
    # weight of a token, the learner's old over the engine's probability; tis: at most the cap; mis: 0 beyond the cap
    correction: Literal["none", "tis", "mis"] = "none"
    correction_cap: float = Field(default=2.0, gt=1.0)

    def mistakes(self) -> Iterator[str]:
        if self.overlong == "punish" and self.overlong_buffer == 0:
            yield (
                "objective.overlong_buffer=0: must be at least 1 with objective.overlong=punish: it is the number of "
                "tokens over which the punishment grows"
            )
        if self.overlong != "punish" and self.overlong_buffer > 0:
            yield (
                f"objective.overlong_buffer={self.overlong_buffer}: has no effect with objective.overlong="
                f"{self.overlong}; set objective.overlong=punish or leave it out"
            )


def correction_mistake(objective: ObjectiveConfig, *, old_logprobs: str, device: str) -> str | None:
    """One line if the correction has nothing to correct, because the ratio's denominator is the engine's own value.

    old_logprobs: as in learner.old_logprobs. device: "cpu" if that is known; all other values are treated alike.
    """
    if objective.correction == "none" or old_logprobs == "recompute" or (old_logprobs == "auto" and device != "cpu"):
        return None
    given = "auto, which is rollout on a CPU," if old_logprobs == "auto" else "rollout"
    return (
        f"objective.correction={objective.correction}: learner.old_logprobs={given} leaves nothing to correct; set "
        f"learner.old_logprobs=recompute or objective.correction=none"
    )
