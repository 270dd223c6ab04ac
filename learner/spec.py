"""The settings of one learner, the same for every rank.

In: sections of the configuration. Out: a LearnerSpec that the driver builds and sends to the ranks. Imports neither
torch nor DeepSpeed.
"""

from dataclasses import dataclass
from typing import Literal

from configs.gates import GateConfig
from configs.objective import ObjectiveConfig, correction_mistake
from configs.schema import LearnerConfig


class LearnerSpecError(ValueError):
    """Settings that are valid one by one but not together on this device."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerSpec:
    """Settings of one learner. Raises LearnerSpecError where settings do not go together on the device."""

    learner: LearnerConfig
    gate: GateConfig
    objective: ObjectiveConfig
    model_path: str  # folder or hub name; "embedded" must have been resolved
    trust_remote_code: bool
    temperature: float  # temperature of sampling; the learner divides its logits by it too
    max_new_tokens: int
    num_iterations: int  # iterations of the whole run, for the learning-rate schedule
    wire_dtype_name: Literal["float32", "bfloat16", "float16"]  # dtype of published weights, in which engines compute
    seed: int
    device: Literal["cpu", "cuda"]

    def __post_init__(self) -> None:
        if self.dtype_name == "bfloat16" and self.learner.zero_stage < 2:
            raise LearnerSpecError(
                f"learner.zero_stage={self.learner.zero_stage}: stages 0 and 1 add up gradients in the weights' dtype, "
                f"bfloat16 here (learner.dtype={self.learner.dtype} on {self.device}), and lose digits with every "
                f"micro-batch; set learner.zero_stage=2 or 3, or learner.dtype=float32"
            )
        mistake = correction_mistake(self.objective, old_logprobs=self.learner.old_logprobs, device=self.device)
        if mistake:
            raise LearnerSpecError(mistake)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of one iteration."""
        return self.learner.num_epochs * self.learner.num_minibatches

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.num_iterations * self.num_steps

    @property
    def dtype_name(self) -> Literal["float32", "bfloat16"]:
        if self.learner.dtype == "auto":
            return "float32" if self.device == "cpu" else "bfloat16"
        return self.learner.dtype

    @property
    def recomputes_old_logprobs(self) -> bool:
        if self.learner.old_logprobs == "auto":
            return self.device != "cpu"
        return self.learner.old_logprobs == "recompute"

    @property
    def scores_batches(self) -> bool:
        """Whether a batch costs forward passes before its first step."""
        return self.recomputes_old_logprobs or self.objective.kl_coef > 0.0
