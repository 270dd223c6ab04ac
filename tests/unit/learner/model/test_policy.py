"""Which attention the policy is loaded with, what its rows cost, and what it answers."""

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import learner.model.policy
from learner.model.policy import Policy, attention_for, checkpoint_parameters, row_cost_of


@pytest.mark.parametrize(
    ("device", "dtype", "installed", "expected"),
    [
        ("cuda", torch.bfloat16, True, "flash_attention_2"),
        ("cuda", torch.bfloat16, False, "by_sequence"),
        ("cuda", torch.float32, True, "by_sequence"),
        ("cpu", torch.bfloat16, True, "by_sequence"),
    ],
)
def test_flash_attention_only_where_it_computes(
    monkeypatch: pytest.MonkeyPatch, device: str, dtype: torch.dtype, installed: bool, expected: str
) -> None:
    monkeypatch.setattr(learner.model.policy, "find_spec", lambda name: object() if installed else None)
    assert attention_for(torch.device(device), dtype) == expected


def tiny_policy(*, tied: bool) -> Policy:
    config = Qwen2Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    return Policy(Qwen2ForCausalLM(config), max_logits=100)


@pytest.mark.parametrize("tied", [True, False])
def test_row_cost_counts_the_models_operations(tied: bool) -> None:
    policy = tiny_policy(tied=tied)
    attention = 16 * 16 + 16 + 2 * (16 * 8 + 8) + 16 * 16  # query, keys, values, output
    num_parameters = 2 * (attention + 3 * 16 * 24 + 2 * 16) + 16 + 32 * 16  # layers, last norm, the head
    assert row_cost_of(policy).pair_cost == pytest.approx(0.5 * 4 * 2 * 16 / (2 * num_parameters))


@pytest.mark.parametrize("tied", [True, False])
def test_a_policy_answers_with_its_models_logprobs_and_keeps_its_parameters_names(tied: bool) -> None:
    torch.manual_seed(0)
    tokens = torch.randint(32, (9,))
    model = tiny_policy(tied=tied).model
    names = [name for name, _ in model.named_parameters()]
    torch.manual_seed(0)
    plain = Qwen2ForCausalLM(model.config)
    plain.load_state_dict(model.state_dict())
    assert names == [name for name, _ in plain.named_parameters()]
    expected = torch.log_softmax(plain(tokens[None]).logits[0, :-1].double(), dim=-1).gather(1, tokens[1:, None])[:, 0]
    policy = Policy(plain, max_logits=60)
    logprobs, _ = policy(tokens[None], torch.arange(9)[None], torch.arange(8), tokens[1:], 1.0)
    torch.testing.assert_close(logprobs.double(), expected, rtol=1e-5, atol=1e-6)
    assert [name for name, _ in checkpoint_parameters(policy)] == names
