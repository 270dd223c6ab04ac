"""Seconds of everything a run does, as functions of how much of it there is.

In: coefficients, fitted to measurements (calibration.py) or counted from a data sheet (roofline.py). Out: seconds.
Times are those of a part that has its device to itself; what sharing costs is the simulation's business.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2

import numpy as np

KV_BLOCK_TOKENS = 16  # vLLM's: only whole blocks of a prompt are shared by its group


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineCosts:
    """One engine. A decoding step takes step_s, and more for each sequence in it and each token these look back at."""

    step_s: float
    sequence_s: float
    context_token_s: float
    prompt_token_s: float
    group_s: float  # of a group whatever its size: request and result
    burst_s: float  # from a submission to an idle engine until its first step begins

    def decoding_s(self, num_steps: float, num_sequences: int, context_tokens: float) -> float:
        """Of steps with the same sequences, which look back at context_tokens in the first."""
        grown = context_tokens * num_steps + num_sequences * num_steps * (num_steps - 1) / 2
        return num_steps * (self.step_s + num_sequences * self.sequence_s) + self.context_token_s * grown

    def steps_within(self, seconds: float, num_sequences: int, context_tokens: float) -> int:
        """How many such steps are over after so many seconds; the inverse of decoding_s, rounded down."""
        quadratic = self.context_token_s * num_sequences / 2
        linear = self.step_s + num_sequences * self.sequence_s + self.context_token_s * context_tokens - quadratic
        if quadratic > 0:
            exact = (-linear + (linear * linear + 4 * quadratic * seconds) ** 0.5) / (2 * quadratic)
        else:
            exact = seconds / linear
        return int(exact + 1e-9)


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerCosts:
    """One rank among equals; collectives aside."""

    load_s: float  # of a batch, whatever its size
    sample_s: float  # of a sample of the batch on its way to the ranks
    step_s: float  # of an optimizer step, whatever its data
    row_s: float  # of a micro-batch
    sequence_s: float  # of a sequence in a micro-batch
    token_s: float  # forward and backward
    pair_s: float  # of each squared length: attention
    scoring_share: float  # of row, sequence, token and pair in a pass without backward

    def pass_s(self, lengths: np.ndarray, *, num_ranks: int, max_tokens: int) -> float:
        """Forward and backward over sequences [N] of prompt and completion, dealt to the ranks by what they cost."""
        costs = self.sequence_s + self.token_s * lengths + self.pair_s * np.square(lengths, dtype=np.float64)
        slowest = max(float(costs.sum()) / num_ranks, float(costs.max(initial=0.0)))
        rows = ceil(float(lengths.sum()) / num_ranks / max_tokens) if len(lengths) else 1
        return slowest + rows * self.row_s


@dataclass(frozen=True, kw_only=True, slots=True)
class WireCosts:
    """Bytes between devices. Both are of one device, in one direction."""

    byte_s: float  # within a node
    network_byte_s: float
    devices_per_node: int

    def seconds(self, num_bytes: float, num_devices: int) -> float:
        return num_bytes * (self.byte_s if num_devices <= self.devices_per_node else self.network_byte_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishCosts:
    """A broadcast from learner rank 0 to the workers of every engine, and what it takes beside the bytes."""

    fixed_s: float
    by_tree: bool  # gloo sends the whole buffer once a level of a binary tree; nccl passes pieces from one to the next

    def seconds(self, num_bytes: float, num_workers: int, wire: WireCosts, *, num_devices: int) -> float:
        """num_devices: of the run, by which it lies on one node or on several."""
        hops = ceil(log2(1 + num_workers)) if self.by_tree else 1
        return self.fixed_s + hops * wire.seconds(num_bytes, num_devices)


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """Everything that a simulated run is charged for."""

    engine: EngineCosts
    learner: LearnerCosts
    wire: WireCosts
    publish: PublishCosts
    grade_s: float  # of one completion, in one process
    iteration_s: float  # of the driver between a publish and the next admission, whatever the batch
    completion_s: float  # of the driver, for each completion of the batch
    rates: tuple[float, ...]  # speed of each of n+1 parts that compute at once, n = 0, 1, ...; () where none is shared

    def rate(self, num_busy: int) -> float:
        """Speed of each part while so many compute, 1 where a part is alone."""
        if not self.rates or num_busy < 1:
            return 1.0
        if num_busy <= len(self.rates):
            return self.rates[num_busy - 1]
        return self.rates[-1] * len(self.rates) / num_busy


def collective_bytes(
    *, trained: float, gathered: float, zero_stage: int, num_ranks: int, num_rows: int, weight_bytes: int
) -> float:
    """Sent by a rank in one optimizer step of num_rows micro-batches: gradients summed, weights gathered again.

    trained: parameters with a gradient; gathered: all weights. Stages 0 to 2 do it once a step, the sum of gradients
    and the gathering of trained weights each passing N * (R-1)/R elements, twice where nothing is shared out. Stage 3
    gathers all weights for every forward and backward pass, and sums gradients at every micro-batch.
    """
    if num_ranks == 1:
        return 0.0
    passed = weight_bytes * (num_ranks - 1) / num_ranks
    return passed * ((2 * gathered + trained) * num_rows if zero_stage == 3 else 2 * trained)


def prompt_tokens(prompt_length: int, group_size: int) -> int:
    """That are read for a group: whole blocks of the prompt once, the rest, its last token at least, for each."""
    shared = (prompt_length - 1) // KV_BLOCK_TOKENS * KV_BLOCK_TOKENS
    return shared + group_size * (prompt_length - shared)


def generation_counts(groups: Sequence[Sequence[int]], *, prompt_length: int) -> list[float]:
    """What groups with completions of these lengths ask of an idle engine, in the order of EngineCosts' fields."""
    lengths = np.array([length for group in groups for length in group], dtype=np.float64)
    looked_back = float((prompt_length * lengths + lengths * (lengths - 1) / 2).sum())
    read = sum(prompt_tokens(prompt_length, len(group)) for group in groups)
    return [float(lengths.max()), float(lengths.sum()), looked_back, float(read), float(len(groups)), 1.0]
