"""Which ZeRO stages and dtypes go together, and what DeepSpeed is told of them."""

from typing import Literal

import pytest
from learner_specs import softsign_spec

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
