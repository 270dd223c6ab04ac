"""Counted adapters against those that peft makes, and what a plan makes of them."""

from typing import Any

import pytest
from plan_fixtures import TINY_SIZES
from transformers import AutoConfig, AutoModelForCausalLM

from configs.loading import load_config
from configs.lora import LoraConfig
from configs.schema import LearnerConfig
from learner.model.lora import add_adapters
from orchestration.plan.costs import collective_bytes
from orchestration.plan.hardware import load_hardware
from orchestration.plan.memory import learner_memory
from orchestration.plan.model_shape import KNOWN_CONFIGS, ModelShape, ModelShapeError, shape_of
from orchestration.plan.roofline import costs_from_hardware
from orchestration.plan.scenario import Scenario
from orchestration.plan.trained import TrainedParameters, trained_parameters

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


def test_adapters_need_little_but_the_frozen_weights() -> None:
    def memory(shape: ModelShape, rank: int) -> Any:
        learner = LearnerConfig(zero_stage=2, dtype="bfloat16", lora=LoraConfig(rank=rank))
        return learner_memory(shape, learner, dtype="bfloat16", num_ranks=4, max_logits=10**6, keeps_reference=True)

    whole, adapted = memory(LARGE, 0), memory(LARGE, 16)
    adapters = trained_parameters(LARGE, LoraConfig(rank=16)).adapters
    assert adapted.weights == 2 * (LARGE.num_parameters + adapters)
    assert adapted.gradients + adapted.optimizer == pytest.approx((4 + 12) * adapters / 4)
    assert (whole.reference, adapted.reference) == (whole.weights, 0.0), "the policy without adapters is the reference"


def test_a_plan_with_adapters_moves_less_and_steps_sooner() -> None:
    def scenario(rank: int) -> Scenario:
        config = load_config(["experiment=paper", f"learner.lora.rank={rank}"])
        return Scenario(
            config=config, shape=LARGE, device="gpu", device_bytes=80e9, prompt_length=100, lengths=(50, 200)
        )

    whole, adapted = scenario(0).workload(), scenario(16).workload()
    assert adapted.published_parameters < whole.published_parameters
    assert adapted.gathered_parameters > whole.gathered_parameters, "ranks gather the frozen weights all the same"

    def costs(trained: int) -> Any:
        return costs_from_hardware(
            LARGE,
            load_hardware("h100"),
            engine_dtype="bfloat16",
            learner_dtype="bfloat16",
            workers_per_engine=1,
            optimizer_ranks=4,
            trained=trained,
            checkpointing=False,
        ).learner

    assert costs(adapted.trained_parameters).token_s == pytest.approx(
        costs(whole.trained_parameters).token_s * 2 / 3, rel=0.01
    )
    assert costs(adapted.trained_parameters).step_s < 0.01 * costs(whole.trained_parameters).step_s


def test_frozen_weights_are_gathered_but_have_no_gradient() -> None:
    def moved(zero_stage: int, trained: float) -> float:
        return collective_bytes(
            trained=trained, gathered=100.0, zero_stage=zero_stage, num_ranks=2, num_rows=3, weight_bytes=2
        )

    assert (moved(2, 100.0), moved(3, 100.0)) == (200.0, 900.0)
    assert (moved(2, 10.0), moved(3, 10.0)) == (20.0, 630.0)
