"""What the learner takes and what it reports.

TrainSample is one completion ready for training; MicroBatch is one packed row of several; StepReport is what one
optimizer step says. Arrays are numpy until a rank moves them to its device.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSample:
    """One sequence (prompt + completion) with its advantage.

    Example: prompt of 2 tokens and completion of 3: token_ids has 5 entries, old_logprobs 3.
    """

    group_index: int  # which group of the iteration (0..num_groups-1), for statistics by group
    token_ids: np.ndarray  # [P + C] int32
    prompt_length: int  # P
    rollout_logprobs: np.ndarray  # [C] float32
    advantage: float
    staleness: int  # policy versions between generation (lowest) and consumption
    finished: bool  # False where max_new_tokens cut the completion off
    is_replayed: bool = False  # sampled by the policy of another run, whatever its version

    @property
    def completion_length(self) -> int:
        return len(self.token_ids) - self.prompt_length


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBatch:
    """All sequences of one iteration, in prompt order; every rank gets the same object and takes its share."""

    samples: tuple[TrainSample, ...]
    num_groups: int

    def __reduce__(self) -> tuple[Any, ...]:
        """Between processes the arrays of all samples are two: hundreds of small ones cost each rank milliseconds."""
        token_ids = [sample.token_ids for sample in self.samples]
        rollout_logprobs = [sample.rollout_logprobs for sample in self.samples]
        rest = [{name: getattr(sample, name) for name in SCALARS} for sample in self.samples]
        return _joined_batch, (*_join(token_ids), *_join(rollout_logprobs), rest, self.num_groups)


SCALARS = tuple(f.name for f in fields(TrainSample) if f.type is not np.ndarray)


def _join(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """All in one, and where all but the first start in it."""
    return np.concatenate(arrays), np.cumsum([len(array) for array in arrays])[:-1]


def _joined_batch(
    token_ids: np.ndarray,
    token_starts: np.ndarray,
    rollout_logprobs: np.ndarray,
    logprob_starts: np.ndarray,
    rest: list[dict[str, Any]],
    num_groups: int,
) -> TrainBatch:
    """The batch whose __reduce__ gave these; its arrays are views of the joined ones."""
    parts = zip(np.split(token_ids, token_starts), np.split(rollout_logprobs, logprob_starts), rest, strict=True)
    samples = tuple(TrainSample(token_ids=ids, rollout_logprobs=logprobs, **own) for ids, logprobs, own in parts)
    return TrainBatch(samples=samples, num_groups=num_groups)


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Several sequences packed into one row without padding. T tokens, S sequences.

    The logprob at position t is that of token t + 1; only positions that predict a completion token are trained:
    `targets[k]` is the token predicted at row position `positions[k]`, K in all, sequence by sequence.
    """

    sample_indices: np.ndarray  # [S] int64, places in TrainBatch.samples
    token_ids: np.ndarray  # [T] int64
    position_ids: np.ndarray  # [T] int64, restarting at 0 for each sequence
    sequence_lengths: np.ndarray  # [S] int64, prompt + completion
    positions: np.ndarray  # [K] int64, row positions whose next token is a completion token
    targets: np.ndarray  # [K] int64
    sequence_index: np.ndarray  # [K] int64, 0..S-1
    group_index: np.ndarray  # [K] int64
    rollout_logprobs: np.ndarray  # [K] float32
    advantages: np.ndarray  # [K] float32
    loss_weights: np.ndarray  # [K] float32, fixed over the global minibatch of one optimizer step; 0 in filler


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """What one optimizer step measured, over all ranks. Metrics carry the names of metrics.jsonl."""

    num_tokens: int  # completion tokens trained
    num_sequences: int
    grad_norm: float  # before clipping
    lr: float
    metrics: dict[str, float] = field(default_factory=dict)
