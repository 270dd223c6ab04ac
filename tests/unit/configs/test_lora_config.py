"""Settings of adapters: every accepted one has an effect."""

import pytest

from configs.loading import ConfigError, load_config
from configs.lora import ALL_LINEAR


def test_a_rank_is_enough() -> None:
    assert not load_config([]).learner.lora.is_on
    lora = load_config(["learner.lora.rank=16"]).learner.lora
    assert lora.is_on
    assert lora.target_modules == (ALL_LINEAR,)


def test_modules_are_named_in_a_list() -> None:
    lora = load_config(["learner.lora.rank=2", "learner.lora.target_modules=[q_proj,v_proj]"]).learner.lora
    assert lora.target_modules == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["learner.lora.alpha=8"], "learner.lora.alpha=8: no effect with learner.lora.rank=0; set learner.lora.rank"),
        (["learner.lora.target_modules=[q_proj]"], r"target_modules=\[q_proj\]: no effect with learner.lora.rank=0"),
        (
            ["learner.lora.rank=2", "learner.lora.target_modules=[all-linear,q_proj]"],
            r"target_modules=\[all-linear,q_proj\]: all-linear must stand alone",
        ),
        (["learner.lora.rank=2", "learner.lora.target_modules=[]"], r"learner.lora.target_modules=\[\]"),
        (["learner.lora.rank=-1"], r"learner.lora.rank=-1"),
    ],
    ids=["alpha", "targets", "both", "empty", "rank"],
)
def test_settings_that_do_not_go_together_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(settings)
