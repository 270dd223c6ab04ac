"""Chunked token log-probabilities and entropy against one full float64 log-softmax, gradients included."""

import pytest
import torch
from torch import Tensor, nn

from learner.logprobs import token_logprobs

NUM_TOKENS, HIDDEN, VOCABULARY = 13, 8, 31


def make(seed: int = 0) -> tuple[Tensor, Tensor, nn.Linear]:
    torch.manual_seed(seed)
    hidden = torch.randn(NUM_TOKENS, HIDDEN, requires_grad=True)
    return hidden, torch.randint(VOCABULARY, (NUM_TOKENS,)), nn.Linear(HIDDEN, VOCABULARY)


def full(hidden: Tensor, targets: Tensor, head: nn.Linear, temperature: float) -> tuple[Tensor, Tensor]:
    logits = (hidden.double() @ head.weight.double().T + head.bias.double()) / temperature
    log_softmax = torch.log(torch.exp(logits) / torch.exp(logits).sum(-1, keepdim=True))
    entropy = -(log_softmax.exp() * log_softmax).sum(-1)
    return log_softmax[torch.arange(len(targets)), targets], entropy


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
@pytest.mark.parametrize("chunk_size", [1, 4, 12, 13, 100])
def test_equals_the_full_softmax_with_gradients(chunk_size: int, temperature: float) -> None:
    hidden, targets, head = make()
    upstream = torch.randn(NUM_TOKENS)
    expected, expected_entropy = full(hidden, targets, head, temperature)
    inputs = (hidden, head.weight, head.bias)
    expected_gradients = torch.autograd.grad((expected * upstream).sum(), inputs)

    logprobs, entropy = token_logprobs(hidden, targets, head, temperature=temperature, chunk_size=chunk_size)
    gradients = torch.autograd.grad((logprobs * upstream).sum(), inputs)
    assert logprobs.dtype == entropy.dtype == torch.float32
    assert not entropy.requires_grad
    torch.testing.assert_close(logprobs.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(entropy.double(), expected_entropy, rtol=1e-5, atol=1e-6)
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk_size", [1, 4, 13])
def test_the_entropy_has_a_gradient_where_asked(chunk_size: int, temperature: float) -> None:
    hidden, targets, head = make()
    upstream = torch.randn(NUM_TOKENS)
    inputs = (hidden, head.weight, head.bias)
    expected_logprobs, expected = full(hidden, targets, head, temperature)
    expected_gradients = torch.autograd.grad((expected * upstream).sum(), inputs)

    logprobs, entropy = token_logprobs(
        hidden, targets, head, temperature=temperature, chunk_size=chunk_size, entropy_gradient=True
    )
    gradients = torch.autograd.grad((entropy * upstream).sum(), inputs, retain_graph=True)
    torch.testing.assert_close(entropy.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logprobs.double(), expected_logprobs, rtol=1e-5, atol=1e-6)
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-6)


def test_head_sees_one_chunk_at_a_time_and_keeps_no_logits() -> None:
    hidden, targets, head = make()
    sizes: list[int] = []
    kept: list[int] = []

    def recording_head(chunk: Tensor) -> Tensor:
        sizes.append(len(chunk))
        return head(chunk)

    def record(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        logprobs, _ = token_logprobs(hidden, targets, recording_head, temperature=1.0, chunk_size=5)
    assert sizes == [5, 5, 3]
    assert max(kept, default=0) < 3 * VOCABULARY  # a chunk's logits have at least 3 rows
    logprobs.sum().backward()
    assert sorted(sizes) == [3, 3, 5, 5, 5, 5]  # each chunk once more, for its gradient


def test_without_gradients_each_chunk_runs_once() -> None:
    hidden, targets, head = make()
    sizes: list[int] = []

    def recording_head(chunk: Tensor) -> Tensor:
        sizes.append(len(chunk))
        return head(chunk)

    with torch.no_grad():
        logprobs, _ = token_logprobs(hidden, targets, recording_head, temperature=1.0, chunk_size=6)
    assert sizes == [6, 6, 1]
    assert not logprobs.requires_grad


def test_half_precision_logits_are_widened_before_the_softmax() -> None:
    hidden, targets, head = make()
    half = head.to(torch.bfloat16)
    logprobs, _ = token_logprobs(hidden.bfloat16(), targets, half, temperature=1.0, chunk_size=4)
    logits = half(hidden.bfloat16()).double()
    expected = torch.log_softmax(logits, dim=-1)[torch.arange(NUM_TOKENS), targets]
    torch.testing.assert_close(logprobs.double(), expected, rtol=1e-6, atol=1e-6)


def test_tokens_of_probability_zero_leave_the_entropy_finite() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf], [200.0, 0.0, 0.0]])
    logprobs, entropy = token_logprobs(logits, torch.tensor([0, 0]), lambda x: x, temperature=1.0, chunk_size=2)
    assert logprobs.tolist() == pytest.approx([-0.6931472, 0.0])
    assert entropy.tolist() == pytest.approx([0.6931472, 0.0])


def test_tokens_of_probability_zero_leave_the_entropys_gradient_finite() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf], [200.0, 0.0, 1.0]], requires_grad=True)
    _, entropy = token_logprobs(
        logits, torch.tensor([0, 0]), lambda x: x, temperature=1.0, chunk_size=2, entropy_gradient=True
    )
    (gradient,) = torch.autograd.grad(entropy.sum(), logits)
    assert entropy.tolist() == pytest.approx([0.6931472, 0.0])
    assert gradient.flatten().tolist() == pytest.approx([0.0] * 6, abs=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 8])
def test_no_tokens_give_empty_tensors(chunk_size: int) -> None:
    _, _, head = make()
    logprobs, entropy = token_logprobs(
        torch.zeros(0, HIDDEN), torch.zeros(0, dtype=torch.int64), head, temperature=1.0, chunk_size=chunk_size
    )
    assert logprobs.shape == entropy.shape == (0,)


@pytest.mark.parametrize(("temperature", "chunk_size"), [(0.0, 4), (-1.0, 4), (1.0, 0)])
def test_settings_out_of_range_are_refused(temperature: float, chunk_size: int) -> None:
    hidden, targets, head = make()
    with pytest.raises(ValueError, match="must be"):
        token_logprobs(hidden, targets, head, temperature=temperature, chunk_size=chunk_size)
