"""Seconds of each part of a run, as functions of its amount of work.

In: a Workload, and coefficients that were fitted to measurements (calibration.py) or counted from a data sheet
(basis.py). Out: seconds of a part that has its device to itself; simulation.py adds the cost of sharing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2

import numpy as np

from orchestration.stream.order import BatchOrder

KV_BLOCK_TOKENS = 16  # vLLM's: only whole blocks of a prompt are shared by its group


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """The numbers of a run that decide its time."""

    prompts_per_iteration: int
    completions_per_prompt: int
    prompt_length: int  # tokens
    lengths: tuple[int, ...]  # sample of completion lengths, tokens; each completion's length is drawn from it
    max_staleness: int
    batch_order: BatchOrder
    publishes_inflight: bool  # False: engines finish their completions before they load new weights
    num_engines: int
    workers_per_engine: int
    max_sequences: int  # most sequences of an engine at a time
    kv_tokens: int  # size of an engine's key/value cache
    num_ranks: int
    num_minibatches: int
    num_epochs: int
    max_tokens: int  # most tokens of a micro-batch
    zero_stage: int
    num_scoring_passes: int  # forward passes over a batch before its first step: old logprobs, reference
    num_graders: int
    learner_bytes: float  # all weights in the learner's dtype
    published_bytes: float  # all weights in the engines' dtype

    @property
    def completions(self) -> int:
        """Completions of an iteration."""
        return self.prompts_per_iteration * self.completions_per_prompt

    def num_rows(self, lengths: np.ndarray) -> int:
        """Number of micro-batches in a rank's share of sequences [N]."""
        return max(1, ceil(float(lengths.sum()) / self.num_ranks / self.max_tokens))

    def collective_bytes(self, num_rows: int) -> float:
        """Bytes that a rank sends in one optimizer step.

        Stages 0 to 2 sum gradients and gather weights once a step. Stage 3 gathers weights for every forward and
        backward pass, and sums gradients at every micro-batch.
        """
        share = (self.num_ranks - 1) / self.num_ranks
        return share * self.learner_bytes * (3 * num_rows if self.zero_stage == 3 else 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineCosts:
    """One engine. A decoding step takes step_s, and more for each sequence in it and each token these look back at."""

    step_s: float
    sequence_s: float
    context_token_s: float
    prompt_token_s: float
    group_s: float = 0.0  # seconds of a group whatever its size: request and result
    burst_s: float = 0.0  # seconds from a submission to an idle engine until its first step begins

    def decoding_s(self, num_steps: float, num_sequences: int, context_tokens: float) -> float:
        """Seconds of num_steps steps with the same sequences, which look back at context_tokens in the first."""
        grown = context_tokens * num_steps + num_sequences * num_steps * (num_steps - 1) / 2
        return num_steps * (self.step_s + num_sequences * self.sequence_s) + self.context_token_s * grown

    def steps_within(self, seconds: float, num_sequences: int, context_tokens: float) -> float:
        """Number of steps done in so many seconds: the inverse of decoding_s."""
        quadratic = self.context_token_s * num_sequences / 2
        linear = self.step_s + num_sequences * self.sequence_s + self.context_token_s * context_tokens - quadratic
        if quadratic > 0:
            return float((-linear + (linear * linear + 4 * quadratic * seconds) ** 0.5) / (2 * quadratic))
        return seconds / linear


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerCosts:
    """Seconds of one rank among equals, without collectives."""

    load_s: float = 0.0  # seconds of a batch, whatever its size
    sample_s: float = 0.0  # seconds of a sample of the batch on its way to the ranks
    step_s: float  # seconds of an optimizer step, whatever its data
    row_s: float = 0.0  # seconds of a micro-batch
    sequence_s: float = 0.0  # seconds of a sequence in a micro-batch
    token_s: float  # seconds of a token, forward and backward
    pair_s: float  # seconds of each squared length: attention
    scoring_share: float  # share of row, sequence, token and pair in a pass without backward

    def pass_s(self, lengths: np.ndarray, workload: Workload) -> float:
        """Forward and backward over sequences [N] of prompt and completion, dealt to the ranks by what they cost."""
        costs = self.sequence_s + self.token_s * lengths + self.pair_s * np.square(lengths, dtype=np.float64)
        slowest = max(float(costs.sum()) / workload.num_ranks, float(costs.max(initial=0.0)))
        return slowest + workload.num_rows(lengths) * self.row_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """Seconds of all parts of a run."""

    engine: EngineCosts
    learner: LearnerCosts
    byte_s: float  # seconds of a byte from one device to another of its node
    network_byte_s: float  # seconds of a byte to another node
    devices_per_node: int
    publish_fixed_s: float = 0.0  # seconds of a publish, whatever its bytes
    publishes_by_tree: bool  # gloo sends the whole buffer once a level of a binary tree; nccl passes pieces along
    grade_s: float = 0.0  # seconds of one completion in one process
    iteration_s: float = 0.0  # seconds of the driver from a publish to the next admission, whatever the batch
    completion_s: float = 0.0  # seconds of the driver for each completion of the batch
    pair_rate: float | None = None  # speed of each of two parts that compute at once; None: each has its own device

    def rate(self, num_busy: int) -> float:
        """Speed of each part while so many compute: 1 for one; three or more share the speed of two."""
        return 1.0 if self.pair_rate is None or num_busy < 2 else self.pair_rate * 2 / num_busy

    def load_s(self, workload: Workload, lengths: np.ndarray) -> float:
        """Seconds of bringing sequences [N] to the ranks, and of their scoring passes."""
        scoring_s = workload.num_scoring_passes * self.learner.scoring_share * self.learner.pass_s(lengths, workload)
        return self.learner.load_s + self.learner.sample_s * len(lengths) + scoring_s

    def step_s(self, workload: Workload, lengths: np.ndarray) -> float:
        """Seconds of an optimizer step on sequences [N], with its collectives."""
        computing_s = self.learner.step_s + self.learner.pass_s(lengths, workload)
        sent = workload.collective_bytes(workload.num_rows(lengths))
        return computing_s + self.sending_s(sent, workload.num_ranks)

    def sending_s(self, num_bytes: float, num_devices: int) -> float:
        return num_bytes * (self.byte_s if num_devices <= self.devices_per_node else self.network_byte_s)

    def publish_s(self, workload: Workload) -> float:
        """Seconds of a broadcast from learner rank 0 to the workers of every engine."""
        workers = workload.num_engines * workload.workers_per_engine
        hops = ceil(log2(1 + workers)) if self.publishes_by_tree else 1
        return self.publish_fixed_s + hops * self.sending_s(workload.published_bytes, workers + workload.num_ranks)

    def driver_s(self, workload: Workload) -> float:
        """Seconds of the driver between a publish and the next admission."""
        return self.iteration_s + self.completion_s * workload.completions


def prompt_tokens(prompt_length: int, group_size: int) -> int:
    """Tokens read for a group: whole blocks of the prompt once; the rest, at least its last token, for each."""
    shared = (prompt_length - 1) // KV_BLOCK_TOKENS * KV_BLOCK_TOKENS
    return shared + group_size * (prompt_length - shared)


def generation_counts(groups: Sequence[Sequence[float]], *, prompt_length: int) -> dict[str, float]:
    """How often an idle engine pays each of EngineCosts for groups with completions of these lengths."""
    lengths = np.array([length for group in groups for length in group], dtype=np.float64)
    return {
        "step_s": float(lengths.max()),
        "sequence_s": float(lengths.sum()),
        "context_token_s": float((prompt_length * lengths + lengths * (lengths - 1) / 2).sum()),
        "prompt_token_s": float(sum(prompt_tokens(prompt_length, len(group)) for group in groups)),
        "group_s": float(len(groups)),
        "burst_s": 1.0,
    }


def update_counts(lengths: Sequence[int], *, num_steps: int, max_tokens: int) -> dict[str, float]:
    """How often one rank pays each of LearnerCosts in an epoch on sequences of these lengths."""
    rows = ceil(sum(lengths) / num_steps / max_tokens)
    return {
        "step_s": float(num_steps),
        "row_s": float(num_steps * rows),
        "sequence_s": float(len(lengths)),
        "token_s": float(sum(lengths)),
        "pair_s": float(sum(length**2 for length in lengths)),
    }
