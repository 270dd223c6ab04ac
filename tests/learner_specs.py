"""The LearnerSpec that unit and integration tests share."""

from typing import Any, Literal

from configs.gates import SoftGateConfig
from configs.objective import ObjectiveConfig
from configs.schema import LearnerConfig
from learner.spec import LearnerSpec


def softsign_spec(
    *,
    device: Literal["cpu", "cuda"] = "cpu",
    model_path: str = "model",
    objective: ObjectiveConfig | None = None,
    **learner: Any,
) -> LearnerSpec:
    """A spec of four iterations with softsign (10, 12), by default the paper's objective; keywords set the learner."""
    return LearnerSpec(
        learner=LearnerConfig(**learner),
        gate=SoftGateConfig(name="softsign"),
        objective=objective or ObjectiveConfig(),
        model_path=model_path,
        trust_remote_code=False,
        temperature=1.0,
        max_new_tokens=8,
        num_iterations=4,
        seed=0,
        wire_dtype_name="float32",
        device=device,
    )
