"""Attention by sequence against a masked square in float64, and a packed policy against its sequences one by one."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

from configs.lora import LoraConfig
from learner.model.attention import BY_SEQUENCE, attend_by_sequence
from learner.model.policy import Policy, _row_arguments, load_policy

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def masked(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], *, scaling: float, sliding_window: int | None
) -> Tensor:
    """Block-diagonal causal attention, written out; [1, T, heads, D]."""
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    place = torch.arange(len(sequence))
    seen = (sequence[:, None] == sequence) & (place[:, None] >= place)
    if sliding_window is not None:
        seen &= place > place[:, None] - sliding_window
    share = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(share, dim=1), value.repeat_interleave(share, dim=1)
    scores = (query @ key.transpose(-1, -2) * scaling).masked_fill(~seen, -torch.inf)
    return (torch.softmax(scores, dim=-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("lengths", [[7], [1], [1, 1, 1], [5, 1, 9, 2]])
@pytest.mark.parametrize("num_key_heads", [4, 2, 1])
@pytest.mark.parametrize("sliding_window", [None, 1, 3, 5, 100])
def test_equals_a_masked_square_with_gradients(
    lengths: list[int], num_key_heads: int, sliding_window: int | None
) -> None:
    torch.manual_seed(0)
    shapes = [(1, heads, sum(lengths), 8) for heads in (4, num_key_heads, num_key_heads)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    expected = masked(*inputs, lengths, scaling=0.3, sliding_window=sliding_window)
    upstream = torch.randn_like(expected)
    found, _ = attend_by_sequence(
        nn.Module(), *inputs, None, sequence_lengths=lengths, scaling=0.3, sliding_window=sliding_window
    )
    torch.testing.assert_close(found, expected)
    gradients = (torch.autograd.grad(result, inputs, upstream) for result in (found, expected))
    for gradient, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, reference)


def test_what_it_cannot_do_is_refused() -> None:
    row = [torch.zeros(1, 1, 6, 4)] * 3
    with pytest.raises(ValueError, match="Module: does not hand sequence_lengths"):
        attend_by_sequence(nn.Module(), *row, None)
    with pytest.raises(ValueError, match="asks for softcap, which needs flash-attn"):
        attend_by_sequence(nn.Module(), *row, None, sequence_lengths=[6], softcap=50.0)
    attend_by_sequence(nn.Module(), *row, None, sequence_lengths=[3, 3], softcap=None)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["qwen2", "mistral"])
def test_a_packed_policy_equals_its_sequences_alone(tmp_path: Path, family: str, checkpointing: bool) -> None:
    torch.manual_seed(0)
    model: PreTrainedModel = (
        Qwen2ForCausalLM(Qwen2Config(**SIZES))
        if family == "qwen2"
        else MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4))
    )
    model.save_pretrained(tmp_path)
    policy = load(tmp_path, checkpointing=checkpointing)
    assert policy.model.config._attn_implementation == BY_SEQUENCE
    sequences = [torch.randint(32, (length,)) for length in (5, 2, 9)]
    starts = [0, 5, 7]
    positions = torch.cat([start + torch.arange(len(s) - 1) for start, s in zip(starts, sequences, strict=True)])
    targets = torch.cat([s[1:] for s in sequences])
    position_ids = torch.cat([torch.arange(len(s)) for s in sequences])
    logprobs, _ = policy(torch.cat(sequences)[None], position_ids[None], positions, targets, 1.0)
    logprobs.sum().backward()

    plain = model.double()
    plain.set_attn_implementation("eager")
    expected = torch.cat(
        [torch.log_softmax(plain(s[None]).logits[0, :-1], -1).gather(1, s[1:, None])[:, 0] for s in sequences]
    )
    expected.sum().backward()
    torch.testing.assert_close(logprobs.double(), expected, rtol=1e-5, atol=1e-6)
    for (name, parameter), (_, reference) in zip(
        policy.model.named_parameters(), plain.named_parameters(), strict=True
    ):
        torch.testing.assert_close(parameter.grad.double(), reference.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_a_model_that_is_not_told_where_sequences_start_is_refused(tmp_path: Path) -> None:
    """Bloom computes its attention itself, over the whole row."""
    BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=16, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="BloomForCausalLM does not use transformers' AttentionInterface"):
        load(tmp_path)


def test_a_model_that_mixes_the_sequences_of_a_row_is_refused(tmp_path: Path) -> None:
    """A convolution reaches over the start of a sequence, whatever its attention is told."""
    config = Lfm2Config(**SIZES, layer_types=["conv", "full_attention"], initializer_range=0.5)
    Lfm2ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a sequence changes with the one before it in a packed row"):
        load(tmp_path)


def test_flash_attention_is_told_what_it_would_read_from_the_positions() -> None:
    position_ids = torch.cat([torch.arange(length) for length in (5, 1, 9, 2)])[None]
    config = Qwen2Config(**SIZES)
    config._attn_implementation_internal = "flash_attention_2"  # by the public name it would have to be installed
    told = _row_arguments(SimpleNamespace(config=config), position_ids)
    (bounds, _), (longest, _) = prepare_fa_kwargs_from_position_ids(position_ids)
    for name in ("q", "k"):
        torch.testing.assert_close(told[f"cu_seq_lens_{name}"], bounds)
        assert told[f"max_length_{name}"] == longest


def load(folder: Path, *, checkpointing: bool = False) -> Policy:
    return load_policy(
        str(folder),
        dtype=torch.float32,
        device=torch.device("cpu"),
        trust_remote_code=False,
        gradient_checkpointing=checkpointing,
        max_logits=100,
        lora=LoraConfig(),
    )
