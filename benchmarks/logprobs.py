"""Benchmark of token logprobs at a vocabulary of 152k: time and peak extra memory, ours against all logits.

In: sizes. Out: one LogprobFigure for each implementation and pass; `scoring` is a forward pass without gradients (that
of old logprobs), `training` is forward and backward. The peers are log_softmax of all logits, the same by chunks of
positions that are computed again, and, if asked for, Liger's fused linear loss on a GPU. Liger computes gradients in
the forward pass, for a cross entropy whose weights are known before; the weights of a gated objective depend on the
logprobs. All results are compared before they are timed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from configs.schema import LearnerConfig
from gates.benchmark import call_seconds, peak_extra_bytes
from learner.model.logprobs import token_logprobs

NUM_POSITIONS, HIDDEN, VOCABULARY = 1024, 896, 151_936  # sizes of Qwen2.5-0.5B
CHUNK = 256  # positions of a chunk of the checkpointed peer
OURS, ALL_LOGITS, CHECKPOINTED, LIGER = "ours", "all logits", "chunks, checkpointed", "Liger, cross entropy"
Gradients = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class LogprobFigure:
    """Time and memory of one pass over all positions, with ratios to those of all logits."""

    name: str
    phase: str  # scoring or training
    seconds: tuple[float, ...]
    time_ratio: float  # time over that of all logits, median over the pairs
    peak_bytes: int  # peak memory above the inputs, gradients included
    gradient_bytes: int  # size of the gradients of hidden states and weight, which every implementation must return
    memory_ratio: float  # memory over that of all logits, gradients subtracted on both sides


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    hidden: Tensor
    head: nn.Linear
    targets: Tensor
    upstream: Tensor  # derivative of the loss by each logprob; -1 for all, as in cross entropy

    @classmethod
    def random(cls, device: torch.device) -> "Problem":
        torch.manual_seed(0)
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        return cls(
            hidden=torch.randn(NUM_POSITIONS, HIDDEN, device=device, dtype=dtype).requires_grad_(),
            head=nn.Linear(HIDDEN, VOCABULARY, bias=False, device=device, dtype=dtype),
            targets=torch.randint(VOCABULARY, (NUM_POSITIONS,), device=device),
            upstream=-torch.ones(NUM_POSITIONS, device=device),
        )

    def ours(self) -> Tensor:
        max_logits = LearnerConfig().max_logits
        return token_logprobs(self.hidden, self.targets, self.head, temperature=1.0, max_logits=max_logits)[0]

    def all_logits(self) -> Tensor:
        return self._gathered(self.hidden, self.targets)

    def checkpointed(self) -> Tensor:
        parts = zip(self.hidden.split(CHUNK), self.targets.split(CHUNK), strict=True)
        return torch.cat([checkpoint(self._gathered, *part, use_reentrant=False) for part in parts])

    def liger(self) -> Tensor:
        """Liger's loss, its only result."""
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        loss: Tensor = liger_fused_linear_cross_entropy(self.hidden, self.head.weight, self.targets, reduction="sum")
        return loss

    def gradients(self, result: Tensor) -> Gradients:
        """Gradients of minus the sum of logprobs; result is the logprobs or this sum."""
        upstream = self.upstream if result.ndim else None
        of_hidden, of_weight = torch.autograd.grad(result, (self.hidden, self.head.weight), upstream)
        return of_hidden, of_weight

    def _gathered(self, hidden: Tensor, targets: Tensor) -> Tensor:
        log_softmax = torch.log_softmax(functional.linear(hidden, self.head.weight).float(), dim=-1)
        return log_softmax.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def require_liger() -> None:
    """Raises RuntimeError that names what is missing if Liger cannot be measured."""
    if not torch.cuda.is_available():
        raise RuntimeError("Liger's kernels are Triton only and no GPU is visible: run this on a machine with one")
    if find_spec("liger_kernel") is None:
        raise RuntimeError("Liger is not installed: pip install liger-kernel")


def benchmark_logprobs(*, repeats: int, with_liger: bool) -> list[LogprobFigure]:
    """Measures on a GPU if there is one, else with one thread, like a learner rank. with_liger: see require_liger."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    problem = Problem.random(device)
    logprobs = {OURS: problem.ours, ALL_LOGITS: problem.all_logits, CHECKPOINTED: problem.checkpointed}
    training = logprobs | ({LIGER: problem.liger} if with_liger else {})
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _require_agreement(problem, training)
        with torch.no_grad():
            scoring = {OURS: problem.ours, ALL_LOGITS: problem.all_logits}
            figures = _figures("scoring", scoring, repeats=repeats, device=device, gradient_bytes=0)
        works = {name: lambda make=make: problem.gradients(make()) for name, make in training.items()}
        num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in (problem.hidden, problem.head.weight))
        return figures + _figures("training", works, repeats=repeats, device=device, gradient_bytes=num_bytes)
    finally:
        torch.set_num_threads(num_threads)


def _figures(
    phase: str, works: Mapping[str, Callable[[], object]], *, repeats: int, device: torch.device, gradient_bytes: int
) -> list[LogprobFigure]:
    peaks = {name: peak_extra_bytes(work, device) for name, work in works.items()}  # also warms up
    samples = [{name: call_seconds(work, 1, device) for name, work in works.items()} for _ in range(repeats)]
    return [
        LogprobFigure(
            name=name,
            phase=phase,
            seconds=tuple(sample[name] for sample in samples),
            time_ratio=median(sample[name] / sample[ALL_LOGITS] for sample in samples),
            peak_bytes=peaks[name],
            gradient_bytes=gradient_bytes,
            memory_ratio=(peaks[name] - gradient_bytes) / (peaks[ALL_LOGITS] - gradient_bytes),
        )
        for name in works
    ]


def _require_agreement(problem: Problem, logprobs: Mapping[str, Callable[[], Tensor]]) -> None:
    expected = problem.all_logits()
    gradients = problem.gradients(expected)
    tolerance = 1e-5 if problem.hidden.dtype == torch.float32 else 2e-2
    for name, make in logprobs.items():
        found = make()
        same = expected if found.ndim else -expected.sum()
        pairs = zip((found, *problem.gradients(found)), (same, *gradients), strict=True)
        for tensor, reference in pairs:
            difference = ((tensor.float() - reference.float()).norm() / reference.float().norm()).item()
            assert difference <= tolerance, f"{name}: off by {difference:.2g}"
