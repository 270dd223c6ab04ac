"""Which settings go together on a device, and what DeepSpeed is told of ZeRO stages and dtypes."""

from typing import Literal

import pytest
from learner_specs import softsign_spec

from configs.objective import ObjectiveConfig
from learner.deepspeed_config import deepspeed_config


@pytest.mark.parametrize("zero_stage", [0, 1])
@pytest.mark.parametrize(("device", "dtype"), [("cuda", "auto"), ("cuda", "bfloat16"), ("cpu", "bfloat16")])
def test_bfloat16_without_float32_gradients_is_refused_in_one_line(
    device: Literal["cpu", "cuda"], dtype: str, zero_stage: int
) -> None:
    with pytest.raises(ValueError) as caught:
        softsign_spec(device=device, dtype=dtype, zero_stage=zero_stage)
    message = str(caught.value)
    assert message.startswith(f"learner.zero_stage={zero_stage}: ")
    assert f"learner.dtype={dtype} on {device}" in message
    assert message.endswith("set learner.zero_stage=2 or 3, or learner.dtype=float32")
    assert "\n" not in message


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_bfloat16_weights_add_up_gradients_in_float32(zero_stage: int) -> None:
    config = deepspeed_config(softsign_spec(device="cuda", zero_stage=zero_stage), num_parameters=1000, hidden_size=8)
    assert config["bf16"]["enabled"] is True
    assert config["data_types"] == {"grad_accum_dtype": "fp32"}


@pytest.mark.parametrize(("device", "dtype"), [("cpu", "auto"), ("cuda", "float32")])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_float32_goes_with_every_stage(device: Literal["cpu", "cuda"], dtype: str, zero_stage: int) -> None:
    spec = softsign_spec(device=device, dtype=dtype, zero_stage=zero_stage)
    config = deepspeed_config(spec, num_parameters=1000, hidden_size=8)
    assert spec.dtype_name == "float32"
    assert config["bf16"]["enabled"] is False
    assert config["zero_optimization"]["stage"] == zero_stage


@pytest.mark.parametrize("correction", ["tis", "mis"])
def test_a_correction_without_recomputed_logprobs_is_refused_in_one_line(correction: Literal["tis", "mis"]) -> None:
    objective = ObjectiveConfig(correction=correction)
    for device, old_logprobs in (("cpu", "auto"), ("cpu", "rollout"), ("cuda", "rollout")):
        with pytest.raises(ValueError) as caught:
            softsign_spec(device=device, old_logprobs=old_logprobs, objective=objective)  # type: ignore[arg-type]
        message = str(caught.value)
        assert message.startswith(f"objective.correction={correction}: learner.old_logprobs={old_logprobs}")
        assert message.endswith("set learner.old_logprobs=recompute or objective.correction=none")
        assert "\n" not in message
    assert softsign_spec(device="cuda", objective=objective).recomputes_old_logprobs
    assert softsign_spec(old_logprobs="recompute", objective=objective).recomputes_old_logprobs
