"""Counted adapters against those that peft makes, and what a plan makes of them."""

from dataclasses import replace
from typing import Any

import pytest
from plan_fixtures import TINY_SIZES, WORKLOAD
from transformers import AutoConfig, AutoModelForCausalLM

from configs.loading import load_config
from configs.lora import LoraConfig
from learner.model.lora import add_adapters
from orchestration.plan.costs import LearnerCosts
from orchestration.plan.hardware import costs_from_hardware, load_hardware
from orchestration.plan.model_shape import (
    KNOWN_CONFIGS,
    ModelShapeError,
    TrainedParameters,
    shape_of,
    trained_parameters,
)
from orchestration.plan.scenario import LearnerMemory, Scenario

LARGE = shape_of(KNOWN_CONFIGS["Qwen/Qwen2.5-7B-Instruct"], name="large")


@pytest.mark.parametrize(
    ("kind", "changes", "targets", "parents"),
    [
        ("qwen2", {}, ("all-linear",), ("self_attn", "mlp")),
        ("qwen2", {}, ("q_proj", "v_proj"), ("self_attn",)),
        ("qwen3", {"head_dim": 16}, ("self_attn.k_proj",), ("self_attn",)),
        ("llama", {"attention_bias": True}, ("down_proj", "o_proj"), ("self_attn", "mlp")),
    ],
)
def test_adapters_are_those_that_peft_makes(
    kind: str, changes: dict[str, Any], targets: tuple[str, ...], parents: tuple[str, ...]
) -> None:
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **(TINY_SIZES | {"tie_word_embeddings": True} | changes))
    )
    shape = shape_of(model.config.to_dict(), name="tiny")
    below = tuple(f".{parent}." for parent in parents)
    sent = sum(parameter.numel() for name, parameter in model.named_parameters() if any(p in name for p in below))
    lora = LoraConfig(rank=5, target_modules=targets)
    made = sum(parameter.numel() for _, parameter in add_adapters(model, lora).parameters())
    assert trained_parameters(shape, lora) == TrainedParameters(
        base=shape.num_parameters, adapters=made, published=sent
    )


def test_without_adapters_everything_is_trained_and_published() -> None:
    count = LARGE.num_parameters
    assert trained_parameters(LARGE, LoraConfig()) == TrainedParameters(base=count, adapters=0, published=count)
    assert trained_parameters(LARGE, LoraConfig()).trained == count


def test_a_module_that_layers_do_not_have_is_refused() -> None:
    with pytest.raises(
        ModelShapeError, match=r"target_modules: c_attn cannot be counted, only all-linear or of q_proj"
    ):
        trained_parameters(LARGE, LoraConfig(rank=4, target_modules=("q_proj", "c_attn")))


def scenario(rank: int, *settings: str) -> Scenario:
    config = load_config(["experiment=paper", f"learner.lora.rank={rank}", *settings])
    return Scenario(config=config, shape=LARGE, device="gpu", device_bytes=80e9, prompt_length=100, lengths=(50, 200))


def test_adapters_need_little_but_the_frozen_weights() -> None:
    def memory(rank: int) -> LearnerMemory:
        return scenario(rank, "learner.zero_stage=2", "objective.kl_coef=0.1").learner_memory(4)

    whole, adapted = memory(0), memory(16)
    adapters = trained_parameters(LARGE, LoraConfig(rank=16)).adapters
    assert adapted.weights == 2 * (LARGE.num_parameters + adapters)
    assert adapted.gradients + adapted.optimizer == pytest.approx((4 + 12) * adapters / 4)
    assert (whole.reference, adapted.reference) == (whole.weights, 0.0), "the policy without adapters is the reference"


def test_a_plan_with_adapters_moves_less_and_steps_sooner() -> None:
    whole, adapted = scenario(0).workload(), scenario(16).workload()
    assert adapted.published_bytes < whole.published_bytes
    assert adapted.held_bytes > whole.held_bytes, "ranks gather the frozen weights all the same"

    def costs(rank: int) -> LearnerCosts:
        asked = scenario(rank, "learner.gradient_checkpointing=false")
        return costs_from_hardware(load_hardware("h100"), asked, asked.workload(num_ranks=4)).learner

    assert costs(16).token_s == pytest.approx(costs(0).token_s * 2 / 3, rel=0.01)
    assert costs(16).step_s < 0.01 * costs(0).step_s


def test_frozen_weights_are_gathered_but_have_no_gradient() -> None:
    def moved(zero_stage: int, trained: float) -> float:
        workload = replace(
            WORKLOAD, zero_stage=zero_stage, num_ranks=2, trained_bytes=2 * trained, held_bytes=2 * 100.0
        )
        return workload.collective_bytes(3)

    assert (moved(2, 100.0), moved(3, 100.0)) == (200.0, 900.0)
    assert (moved(2, 10.0), moved(3, 10.0)) == (20.0, 630.0)
