"""Counted memory against real tiny models: parameters, gradients, optimizer and what a forward pass keeps."""

from typing import Any

import pytest
import torch
from plan_fixtures import TINY_SIZES
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from configs.loading import ConfigError, load_config
from learner.model.attention import BY_SEQUENCE
from learner.optimizer import build_adamw
from orchestration.plan.scenario import DTYPE_BYTES, ModelShape, Scenario, activation_bytes, model_shape, shape_of

KINDS = [
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen2", {"tie_word_embeddings": False}),
    ("qwen3", {"tie_word_embeddings": True, "head_dim": 16}),
    ("llama", {"tie_word_embeddings": False}),
    ("llama", {"tie_word_embeddings": False, "attention_bias": True}),
    ("mistral", {"tie_word_embeddings": False, "head_dim": 8}),
]
NUM_TOKENS = 32


def tiny(kind: str, **changes: Any) -> PreTrainedModel:
    config = AutoConfig.for_model(kind, **(TINY_SIZES | changes))
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


@pytest.mark.parametrize(("kind", "changes"), KINDS)
def test_parameters_are_counted_exactly(kind: str, changes: dict[str, Any]) -> None:
    model = tiny(kind, **changes)
    shape = shape_of(model.config.to_dict(), name="tiny")
    assert shape.num_parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "count"), [("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512), ("Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304)]
)
def test_published_models_have_their_published_sizes(name: str, count: int) -> None:
    assert model_shape(name).num_parameters == count


def test_an_architecture_that_cannot_be_counted_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model.path=x: parameters of model_type=gpt2 cannot be counted"):
        shape_of({"model_type": "gpt2"}, name="x")


def test_a_config_without_a_size_is_refused_by_its_name() -> None:
    tree = {"model_type": "qwen2", **TINY_SIZES, "tie_word_embeddings": True}
    del tree["intermediate_size"]
    with pytest.raises(ConfigError, match="has no intermediate_size"):
        shape_of(tree, name="x")


def test_plain_optimizer_holds_what_is_counted() -> None:
    model = tiny("qwen2", tie_word_embeddings=True)
    optimizer = build_adamw(model.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    model(torch.arange(8)[None]).logits.sum().backward()
    optimizer.step()
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    found = counted("learner.zero_stage=0", "learner.dtype=float32")
    assert found["weights"] == size_of(model.parameters())
    assert found["gradients"] == size_of(
        parameter.grad for parameter in model.parameters() if parameter.grad is not None
    )
    assert found["optimizer"] == size_of(moments)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_those_that_autograd_keeps(dtype: str, checkpointing: bool) -> None:
    model = tiny("qwen2", tie_word_embeddings=True).to(getattr(torch, dtype)).train()
    model.set_attn_implementation(BY_SEQUENCE)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    shape = shape_of(model.config.to_dict(), name="tiny")
    kept = kept_bytes(model)
    expected = activation_bytes(shape, dtype=dtype, num_tokens=NUM_TOKENS, checkpointing=checkpointing)
    if checkpointing:  # what is counted beyond that is one layer, computed again in the backward pass
        whole = activation_bytes(shape, dtype=dtype, num_tokens=NUM_TOKENS, checkpointing=False)
        expected -= (whole - NUM_TOKENS * DTYPE_BYTES[dtype] * shape.hidden * 2) / shape.layers
    assert kept == pytest.approx(expected, rel=0.08)


def kept_bytes(model: PreTrainedModel) -> int:
    """Bytes of distinct storages that a forward pass of the layers saves, weights aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in weights:
            kept[pointer] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        half = NUM_TOKENS // 2
        places = torch.arange(half).repeat(2)[None]
        model.base_model(places % 23, position_ids=places, use_cache=False, sequence_lengths=[half, half])
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_zero_stages_share_out_more_and_more() -> None:
    def per_rank(stage: int, num_ranks: int) -> tuple[float, float, float]:
        dtype = "bfloat16" if stage >= 2 else "float32"
        found = counted(f"learner.zero_stage={stage}", f"learner.dtype={dtype}", num_ranks=num_ranks)
        return found["weights"], found["gradients"], found["optimizer"]

    count = shape_of(tiny("qwen2", tie_word_embeddings=True).config.to_dict(), name="tiny").num_parameters
    assert per_rank(1, 4) == (4 * count, 4 * count, 3 * count)
    assert per_rank(2, 4) == (2 * count, count, 3 * count)
    assert per_rank(3, 4) == (count / 2, count, 3 * count)


def test_a_reference_model_and_more_logits_take_room() -> None:
    plain = counted("learner.dtype=float32")
    assert plain["reference"] == 0
    assert counted("learner.dtype=float32", "objective.kl_coef=0.1")["reference"] > 0
    assert counted("learner.dtype=float32", "learner.max_logits=10")["logits"] < plain["logits"]


def counted(*settings: str, num_ranks: int = 1) -> dict[str, float]:
    shape = shape_of(tiny("qwen2", tie_word_embeddings=True).config.to_dict(), name="tiny")
    return scenario(shape, *settings).learner_memory(num_ranks)


def scenario(shape: ModelShape, *settings: str, device: str = "cpu", device_bytes: float | None = None) -> Scenario:
    config = load_config(["rollout.max_new_tokens=32", *settings])
    return Scenario(
        config=config, shape=shape, device=device, device_bytes=device_bytes, prompt_length=5, lengths=(20,)
    )


def size_of(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_the_cache_of_an_engine_holds_keys_and_values_of_every_layer() -> None:
    model = tiny("qwen2", tie_word_embeddings=True)
    shape = shape_of(model.config.to_dict(), name="tiny")
    cached = model(torch.arange(8)[None], use_cache=True).past_key_values
    a_token = sum(size_of((layer.keys, layer.values)) for layer in cached.layers) / 8
    settings = ("rollout.dtype=float32", "model.max_model_len=64")
    found = scenario(shape, *settings, f"rollout.kv_cache_gib={1000 * a_token / 2**30}").engine_memory()
    assert found is not None
    assert (found.kv_tokens, found.longest_sequences) == (1000, 15)
    gpu = (*settings, "rollout.tensor_parallel_size=2", "rollout.gpu_memory_utilization=0.5")
    halves = scenario(shape, *gpu, device="gpu", device_bytes=4.0 * (found.weights + found.kv_cache)).engine_memory()
    assert halves is not None
    assert halves.weights == found.weights / 2
    assert halves.kv_cache == 2.0 * (found.weights + found.kv_cache) - halves.weights
    assert scenario(shape, *gpu, device="gpu").engine_memory() is None
