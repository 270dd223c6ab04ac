"""Tiled token log-probabilities and entropy against one full float64 log-softmax, gradients included."""

import pytest
import torch
from torch import Tensor, nn

from learner.model import tiles as logit_tiles
from learner.model.logprobs import OutputHead, token_logprobs
from learner.model.tiles import Grid

NUM_TOKENS, HIDDEN, VOCABULARY = 13, 8, 31
# (positions, vocabulary) of a tile: one logit, edges that do not fit, whole rows, whole columns, nothing cut
TILES = [(1, 1), (4, 7), (5, 31), (13, 6), (12, 30), (13, 31)]


@pytest.fixture(params=TILES, ids=str)
def max_logits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """As many as give tiles of the parameter's shape."""
    positions, tokens = request.param
    monkeypatch.setattr(logit_tiles, "TILE_POSITIONS", positions)
    grid = Grid.within(positions * tokens, num_positions=NUM_TOKENS, vocabulary=VOCABULARY)
    assert (grid.positions, grid.tokens) == request.param
    return positions * tokens


def make(seed: int = 0, *, bias: bool = True, num_tokens: int = NUM_TOKENS) -> tuple[Tensor, Tensor, nn.Linear]:
    torch.manual_seed(seed)
    hidden = torch.randn(num_tokens, HIDDEN, requires_grad=True)
    return hidden, torch.randint(VOCABULARY, (num_tokens,)), nn.Linear(HIDDEN, VOCABULARY, bias=bias)


def inputs_of(hidden: Tensor, head: nn.Linear) -> tuple[Tensor, ...]:
    return (hidden, head.weight) if head.bias is None else (hidden, head.weight, head.bias)


def full(hidden: Tensor, targets: Tensor, head: nn.Linear, temperature: float) -> tuple[Tensor, Tensor]:
    logits = hidden.double() @ head.weight.double().T
    logits = (logits if head.bias is None else logits + head.bias.double()) / temperature
    log_softmax = torch.log(torch.exp(logits) / torch.exp(logits).sum(-1, keepdim=True))
    entropy = -(log_softmax.exp() * log_softmax).sum(-1)
    return log_softmax[torch.arange(len(targets)), targets], entropy


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.5])
def test_equals_the_full_softmax_with_gradients(max_logits: int, temperature: float, bias: bool) -> None:
    hidden, targets, head = make(bias=bias)
    upstream = torch.randn(NUM_TOKENS)
    expected, expected_entropy = full(hidden, targets, head, temperature)
    inputs = inputs_of(hidden, head)
    expected_gradients = torch.autograd.grad((expected * upstream).sum(), inputs)

    logprobs, entropy = token_logprobs(hidden, targets, head, temperature=temperature, max_logits=max_logits)
    gradients = torch.autograd.grad((logprobs * upstream).sum(), inputs)
    assert logprobs.dtype == entropy.dtype == torch.float32
    assert not entropy.requires_grad
    torch.testing.assert_close(logprobs.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(entropy.double(), expected_entropy, rtol=1e-5, atol=1e-6)
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("share_of_logprobs", [0.0, 1.0])
def test_the_entropy_has_a_gradient_where_asked(max_logits: int, temperature: float, share_of_logprobs: float) -> None:
    hidden, targets, head = make()
    of_entropy, of_logprobs = torch.randn(NUM_TOKENS), share_of_logprobs * torch.randn(NUM_TOKENS)
    inputs = inputs_of(hidden, head)
    expected_logprobs, expected = full(hidden, targets, head, temperature)
    loss = (expected * of_entropy).sum() + (expected_logprobs * of_logprobs).sum()
    expected_gradients = torch.autograd.grad(loss, inputs)

    logprobs, entropy = token_logprobs(
        hidden, targets, head, temperature=temperature, max_logits=max_logits, entropy_gradient=True
    )
    gradients = torch.autograd.grad((entropy * of_entropy).sum() + (logprobs * of_logprobs).sum(), inputs)
    torch.testing.assert_close(entropy.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logprobs.double(), expected_logprobs, rtol=1e-5, atol=1e-6)
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_peaked_distributions_keep_their_digits(max_logits: int, entropy_gradient: bool) -> None:
    """Logits of some hundreds, as a trained head has them, with the largest in any tile."""
    hidden, targets, head = make(seed=3)
    with torch.no_grad():
        head.weight *= 100.0
    expected, expected_entropy = full(hidden, targets, head, temperature=8.0)
    expected_gradients = torch.autograd.grad(expected.sum(), inputs_of(hidden, head))
    logprobs, entropy = token_logprobs(
        hidden, targets, head, temperature=8.0, max_logits=max_logits, entropy_gradient=entropy_gradient
    )
    gradients = torch.autograd.grad(logprobs.sum(), inputs_of(hidden, head))
    torch.testing.assert_close(logprobs.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy.double(), expected_entropy, rtol=1e-4, atol=1e-5)
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-4)


def test_no_tensor_of_all_logits_exists_forward_or_backward() -> None:
    num_tokens, max_logits = 200, 400
    hidden, targets, head = make(num_tokens=num_tokens)
    sizes: list[int] = []
    kept: list[int] = []

    def record(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            sizes.extend(tensor.numel() for tensor in (result,) if isinstance(tensor, Tensor))
            return result

    with Recorder(), torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        logprobs, _ = token_logprobs(hidden, targets, head, temperature=1.0, max_logits=max_logits)
        logprobs.sum().backward()
    assert max_logits in sizes  # tiles are as large as they may be
    assert max(sizes) == num_tokens * HIDDEN  # nothing is larger than the hidden states
    assert max(kept) == num_tokens * HIDDEN


def test_positions_without_an_upstream_gradient_are_left_out_of_the_backward_pass() -> None:
    hidden, targets, head = make()
    upstream = torch.randn(NUM_TOKENS)
    upstream[2:11] = 0.0
    with torch.no_grad():
        hidden[4] = torch.nan  # would spread through 0 * nan
    logprobs, _ = token_logprobs(hidden, targets, head, temperature=1.0, max_logits=40)
    gradients = torch.autograd.grad(logprobs, inputs_of(hidden, head), upstream)
    kept = torch.cat([torch.arange(2), torch.arange(11, 13)])
    expected, _ = full(hidden[kept], targets[kept], head, temperature=1.0)
    expected_gradients = torch.autograd.grad((expected * upstream[kept]).sum(), inputs_of(hidden, head))
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-6)


def test_no_upstream_gradient_gives_zeros() -> None:
    hidden, targets, head = make()
    logprobs, _ = token_logprobs(hidden, targets, head, temperature=1.0, max_logits=40)
    gradients = torch.autograd.grad(logprobs, inputs_of(hidden, head), torch.zeros(NUM_TOKENS))
    assert [gradient.shape for gradient in gradients] == [tensor.shape for tensor in inputs_of(hidden, head)]
    assert not any(gradient.any() for gradient in gradients)


def test_a_frozen_head_and_a_tied_one() -> None:
    hidden, targets, head = make(bias=False)
    expected, _ = full(hidden, targets, head, temperature=1.0)
    (expected_hidden,) = torch.autograd.grad(expected.sum(), hidden)

    frozen = nn.Linear(HIDDEN, VOCABULARY, bias=False)
    frozen.weight = nn.Parameter(head.weight.detach(), requires_grad=False)
    token_logprobs(hidden, targets, frozen, temperature=1.0, max_logits=40)[0].sum().backward()
    assert frozen.weight.grad is None
    torch.testing.assert_close(hidden.grad, expected_hidden, rtol=1e-4, atol=1e-6)

    tokens = torch.arange(NUM_TOKENS)
    embedding = nn.Embedding(VOCABULARY, HIDDEN)
    embedding.weight = head.weight
    tied = embedding(tokens)
    expected, _ = full(tied, targets, head, temperature=1.0)
    (expected_both,) = torch.autograd.grad(expected.sum(), head.weight)
    logprobs, _ = token_logprobs(embedding(tokens), targets, head, temperature=1.0, max_logits=40)
    (both,) = torch.autograd.grad(logprobs.sum(), head.weight)
    torch.testing.assert_close(both, expected_both, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("max_logits", [20, 10_000])
def test_without_gradients_nothing_is_kept(max_logits: int) -> None:
    hidden, targets, head = make()
    expected, expected_entropy = full(hidden, targets, head, temperature=1.0)
    with torch.no_grad():
        logprobs, entropy = token_logprobs(hidden, targets, head, temperature=1.0, max_logits=max_logits)
    assert logprobs.grad_fn is None
    assert entropy.grad_fn is None
    torch.testing.assert_close(logprobs.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(entropy.double(), expected_entropy, rtol=1e-5, atol=1e-6)


def test_half_precision_logits_are_widened_before_the_softmax(max_logits: int) -> None:
    hidden, targets, head = make()
    half = head.to(torch.bfloat16)
    logprobs, entropy = token_logprobs(hidden.bfloat16(), targets, half, temperature=1.0, max_logits=max_logits)
    logits = half(hidden.bfloat16()).double()
    log_softmax = torch.log_softmax(logits, dim=-1)
    torch.testing.assert_close(logprobs.double(), log_softmax[torch.arange(NUM_TOKENS), targets], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(entropy.double(), -(log_softmax.exp() * log_softmax).sum(-1), rtol=1e-6, atol=1e-6)


def test_half_precision_gradients_add_up_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred tiles of positions: summed in bfloat16 the weight's gradient would be off by several percent."""
    monkeypatch.setattr(logit_tiles, "TILE_POSITIONS", 4)
    hidden, targets, head = make(num_tokens=400)
    half, half_hidden = head.to(torch.bfloat16), (hidden.detach().bfloat16() + 1.0).requires_grad_()
    expected, _ = full(half_hidden, targets, half, temperature=1.0)
    expected_gradients = torch.autograd.grad(expected.sum(), inputs_of(half_hidden, half))
    logprobs, _ = token_logprobs(half_hidden, targets, half, temperature=1.0, max_logits=4 * 9)
    gradients = torch.autograd.grad(logprobs.sum(), inputs_of(half_hidden, half))
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        assert gradient.dtype == torch.bfloat16
        assert (gradient.float() - reference.float()).norm() <= 6e-3 * reference.float().norm()


@pytest.mark.parametrize("max_logits", [2, 4, 1000])
def test_tokens_of_probability_zero_leave_entropy_and_gradients_finite(max_logits: int) -> None:
    """Their logits are -inf, by the bias, or 200 below the largest; once they are all that a tile has."""
    head = nn.Linear(2, 4)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 200.0]]))
        head.bias.copy_(torch.tensor([-torch.inf, -torch.inf, 0.0, 0.0]))
    hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    for entropy_gradient in (False, True):
        logprobs, entropy = token_logprobs(
            hidden,
            torch.tensor([2, 3]),
            head,
            temperature=1.0,
            max_logits=max_logits,
            entropy_gradient=entropy_gradient,
        )
        assert logprobs.tolist() == pytest.approx([-0.6931472, 0.0])
        assert entropy.tolist() == pytest.approx([0.6931472, 0.0])
        loss = logprobs.sum() + entropy.sum() if entropy_gradient else logprobs.sum()
        gradients = torch.autograd.grad(loss, inputs_of(hidden, head))
        assert gradients[0][1].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
        assert gradients[2].tolist() == pytest.approx([0.0, 0.0, 0.5, -0.5], abs=1e-6)
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("num_tokens", [0, 1])
@pytest.mark.parametrize("max_logits", [1, 8, 1000])
def test_no_token_and_one_token(num_tokens: int, max_logits: int) -> None:
    hidden, targets, head = make(num_tokens=num_tokens)
    logprobs, entropy = token_logprobs(hidden, targets, head, temperature=1.0, max_logits=max_logits)
    expected, expected_entropy = full(hidden, targets, head, temperature=1.0)
    assert logprobs.shape == entropy.shape == (num_tokens,)
    torch.testing.assert_close(logprobs.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(entropy.double(), expected_entropy, rtol=1e-5, atol=1e-6)
    logprobs.sum().backward()
    assert head.weight.grad is not None
    assert head.weight.grad.any() == (num_tokens == 1)


@pytest.mark.parametrize(("temperature", "max_logits"), [(0.0, 4), (-1.0, 4), (1.0, 0)])
def test_settings_out_of_range_are_refused(temperature: float, max_logits: int) -> None:
    hidden, targets, head = make()
    with pytest.raises(ValueError, match="must be"):
        token_logprobs(hidden, targets, head, temperature=temperature, max_logits=max_logits)


@pytest.mark.parametrize(
    ("max_logits", "num_positions", "vocabulary"),
    [(1, 5, 7), (4_194_304, 300, 152_000), (4_194_304, 16_000, 152_000), (4_194_304, 16_000, 1_000), (7, 3, 100)],
)
def test_tiles_cover_everything_once_within_the_budget(max_logits: int, num_positions: int, vocabulary: int) -> None:
    grid = Grid.within(max_logits, num_positions=num_positions, vocabulary=vocabulary)
    assert grid.positions * grid.tokens <= max_logits
    rows = [place for row in grid.rows(num_positions) for place in range(num_positions)[row]]
    columns = [place for part in grid.columns(vocabulary) for place in range(part.start, part.stop)]
    assert rows == list(range(num_positions))
    assert columns == list(range(vocabulary))


@pytest.mark.parametrize("bias", [True, False])
def test_an_output_head_has_the_same_parameters_and_answers_with_logprobs(bias: bool) -> None:
    hidden, targets, head = make(bias=bias)
    made = OutputHead.of(head)
    assert dict(made.named_parameters()).keys() == dict(head.named_parameters()).keys()
    assert all(made.get_parameter(name) is parameter for name, parameter in head.named_parameters())
    logprobs, _ = made(hidden, targets, temperature=1.0, max_logits=40, entropy_gradient=False)
    torch.testing.assert_close(logprobs.double(), full(hidden, targets, head, 1.0)[0], rtol=1e-5, atol=1e-6)


def test_a_head_that_is_not_linear_is_refused() -> None:
    with pytest.raises(ValueError, match=r"output head Sequential: must be a torch.nn.Linear"):
        OutputHead.of(nn.Sequential(nn.Linear(HIDDEN, VOCABULARY)))
