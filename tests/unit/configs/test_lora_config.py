"""Settings of adapters."""

from configs.loading import load_config
from configs.lora import ALL_LINEAR


def test_a_rank_is_enough() -> None:
    assert not load_config([]).learner.lora.is_on
    lora = load_config(["learner.lora.rank=16"]).learner.lora
    assert lora.is_on
    assert lora.target_modules == (ALL_LINEAR,)


def test_modules_are_named_in_a_list() -> None:
    lora = load_config(["learner.lora.rank=2", "learner.lora.target_modules=[q_proj,v_proj]"]).learner.lora
    assert lora.target_modules == ("q_proj", "v_proj")
