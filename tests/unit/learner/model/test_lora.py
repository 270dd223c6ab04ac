"""Adapters: merged as peft merges them, trained alone, absent from the initial model; what a publish sends of them."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from configs.lora import ALL_LINEAR, LoraConfig
from learner.checkpoints.pretrained import ADAPTER_FOLDER, copy_model, write_model
from learner.model.policy import Policy, checkpoint_parameters, load_policy
from learner.model.weights import changing_weights, published_weights
from learner.sender import WeightSender

CPU = torch.device("cpu")
VOCABULARY = 32
Targets = tuple[str, ...]
ALL: Targets = (ALL_LINEAR,)
TARGETS: list[Targets] = [ALL, ("q_proj", "v_proj"), ("down_proj",)]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=request.param,
    )
    path: Path = tmp_path_factory.mktemp("model")
    Qwen2ForCausalLM(config).save_pretrained(path)
    return path


def load(folder: Path, lora: LoraConfig) -> Policy:
    torch.manual_seed(1)
    return load_policy(
        str(folder),
        dtype=torch.float32,
        device=CPU,
        trust_remote_code=False,
        gradient_checkpointing=False,
        max_logits=10_000,
        lora=lora,
    )


def plain(folder: Path) -> Policy:
    return load(folder, LoraConfig())


def adapted(folder: Path, target_modules: Targets = ALL) -> Policy:
    return load(folder, LoraConfig(rank=4, alpha=6, target_modules=target_modules))


def trained(policy: Policy) -> Policy:
    """The policy with random factors, as after some training."""
    assert policy.adapters is not None
    torch.manual_seed(2)
    for _, parameter in policy.adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return policy


def logprobs(policy: Policy) -> torch.Tensor:
    tokens = torch.arange(12)
    pair = policy(tokens[None], tokens[None], torch.arange(11), tokens[1:], 1.0)
    return pair[0]


@pytest.mark.parametrize("target_modules", TARGETS, ids=str)
def test_only_adapters_get_gradients(folder: Path, target_modules: Targets) -> None:
    policy = trained(adapted(folder, target_modules))
    logprobs(policy).sum().backward()
    names = {name for name, parameter in policy.model.named_parameters() if parameter.grad is not None}
    assert policy.adapters is not None
    assert names == {name for name, _ in policy.adapters.parameters()}
    num_modules = 7 if target_modules == ALL else len(target_modules)
    assert len(names) == 2 * 2 * num_modules, "two factors in each of two layers"
    assert not any("lm_head" in name for name in names)


def test_before_training_and_without_adapters_the_policy_is_the_initial_model(folder: Path) -> None:
    initial = logprobs(plain(folder))
    policy = adapted(folder)
    assert torch.equal(logprobs(policy), initial)
    changed = trained(policy)
    assert (logprobs(changed) - initial).abs().max() > 0.1
    assert changed.adapters is not None
    before = [parameter.requires_grad for parameter in changed.parameters()]
    with changed.adapters.disabled():
        assert torch.equal(logprobs(changed), initial)
    assert [parameter.requires_grad for parameter in changed.parameters()] == before


@pytest.mark.parametrize("target_modules", TARGETS, ids=str)
def test_merged_weights_are_those_that_peft_merges(folder: Path, tmp_path: Path, target_modules: Targets) -> None:
    policy = trained(adapted(folder, target_modules))
    base = {name: parameter.detach().clone() for name, parameter in checkpoint_parameters(policy)}
    ours = {weight.name: weight.value() for weight in published_weights(policy)}
    write_model(copy_model(policy, rank=0), policy, tmp_path)
    assert all(torch.equal(base[name], parameter) for name, parameter in checkpoint_parameters(policy))

    reloaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(tmp_path / ADAPTER_FOLDER))
    merged = dict(reloaded.merge_and_unload().named_parameters())
    saved = dict(AutoModelForCausalLM.from_pretrained(tmp_path).named_parameters())
    assert ours.keys() == merged.keys() == saved.keys()
    for name, weight in merged.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-6, atol=1e-7)
        assert torch.equal(saved[name], ours[name])
    assert any((weight - base[name]).abs().max() > 0.1 for name, weight in merged.items())


def test_weights_in_bfloat16_are_merged_in_float32(folder: Path) -> None:
    policy = trained(adapted(folder)).to(torch.bfloat16)
    for weight in published_weights(policy):
        if weight.factors is not None:
            expected = weight.base.double() + 1.5 * (weight.factors.b.double() @ weight.factors.a.double())
            torch.testing.assert_close(weight.value().double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("target_modules", "expected"),
    [
        (("q_proj",), {"q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias"}),
        (("up_proj",), {"gate_proj.weight", "up_proj.weight", "down_proj.weight"}),
    ],
    ids=["attention", "mlp"],
)
def test_after_the_first_publish_what_an_engine_loads_together_travels(
    folder: Path, target_modules: tuple[str, ...], expected: set[str]
) -> None:
    weights = published_weights(adapted(folder, target_modules))
    sender = WeightSender(weights, rank=0, device=CPU, wire_dtype="bfloat16")
    assert [group.label for group in sender.changing_groups] == ["model.layers.0", "model.layers.1"]
    for group in sender.changing_groups:
        assert expected <= {".".join(meta.name.split(".")[4:]) for meta in group.parameters}
        assert not any("norm" in meta.name for meta in group.parameters)
    every = [meta.name for group in sender.groups for meta in group.parameters]
    assert every == [weight.name for weight in weights]
    num_bytes = [sum(group.num_bytes for group in groups) for groups in (sender.changing_groups, sender.groups)]
    assert num_bytes[0] < 0.7 * num_bytes[1]


def test_without_adapters_everything_changes(folder: Path) -> None:
    weights = published_weights(plain(folder))
    assert changing_weights(weights) == weights


@pytest.mark.parametrize(
    ("target_modules", "message"),
    [
        (("q_proj", "query"), r"\[q_proj,query\]: there is no linear module query; must be all-linear or of .*v_proj"),
        (("lm_head",), r"\[lm_head\]: lm_head is the output head, which has none; must be .*q_proj"),
        (("embed_tokens",), r"there is no linear module embed_tokens"),
    ],
)
def test_modules_that_cannot_be_adapted_are_refused(
    folder: Path, target_modules: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        adapted(folder, target_modules)
