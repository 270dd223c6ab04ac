"""Input and reports of the learner.

TrainSample is one completion ready for training; MicroBatch is one packed row of several; StepReport is what one
optimizer step says. Arrays are numpy until a rank moves them to its device.
"""

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from rollout.contract import SampledTokens, VersionStart


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSample:
    """One sequence with its advantage.

    Example: a completion of position 40 with reward 2.0 in a group of mean 1.0: tokens as the engine gave them,
    advantage=1.15, staleness=1 where version 3 sampled its first token and version 4 is trained on it.
    """

    position: int  # position of its prompt in the stream; the samples of one position are a group
    tokens: SampledTokens  # tokens of prompt and completion
    advantage: float
    staleness: int  # policy versions between generation (lowest) and consumption
    finished: bool  # False where max_new_tokens cut the completion off
    is_replayed: bool = False  # True where another run's policy sampled it, whatever its version


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainBatch:
    """All sequences of one iteration, in prompt order; every rank gets the same object and takes its share.

    Example: 4 prompts of 8 completions are 32 samples; group_index() is [0] * 8 + [1] * 8 + [2] * 8 + [3] * 8.
    """

    samples: tuple[TrainSample, ...]

    @property
    def num_groups(self) -> int:
        return len({sample.position for sample in self.samples})

    def group_index(self) -> np.ndarray:
        """[N] int64 in 0..num_groups-1: the group of each sample, in the order in which groups come."""
        numbers: dict[int, int] = {}
        return np.array([numbers.setdefault(sample.position, len(numbers)) for sample in self.samples], dtype=np.int64)

    def __reduce__(self) -> tuple[Any, ...]:
        """Joins the samples' arrays to three to be sent: hundreds of small ones would cost milliseconds."""
        tokens = [sample.tokens for sample in self.samples]
        return _joined_batch, (
            np.concatenate([each.token_ids for each in tokens]),
            np.concatenate([each.completion_mask for each in tokens]),
            np.concatenate([each.rollout_logprobs for each in tokens]),
            [(len(each.token_ids), each.num_sampled) for each in tokens],
            [tuple((start.version, start.start) for start in each.version_starts) for each in tokens],
            [{name: getattr(sample, name) for name in SCALARS} for sample in self.samples],
        )


SCALARS = tuple(f.name for f in fields(TrainSample) if f.name != "tokens")


def _joined_batch(
    token_ids: np.ndarray,
    completion_mask: np.ndarray,
    rollout_logprobs: np.ndarray,
    lengths: list[tuple[int, int]],
    version_starts: list[tuple[tuple[int, int], ...]],
    scalars: list[dict[str, Any]],
) -> TrainBatch:
    """The batch whose __reduce__ gave these; its arrays are views of the joined ones."""
    made = {
        starts: tuple(VersionStart(version=version, start=start) for version, start in starts)
        for starts in set(version_starts)  # most sequences have those of another
    }
    ends, sampled_ends = np.cumsum(lengths, axis=0)[:-1].T
    parts = (np.split(token_ids, ends), np.split(completion_mask, ends), np.split(rollout_logprobs, sampled_ends))
    samples = [
        TrainSample(
            tokens=SampledTokens(
                token_ids=ids, completion_mask=mask, rollout_logprobs=logprobs, version_starts=made[starts]
            ),
            **rest,
        )
        for ids, mask, logprobs, starts, rest in zip(*parts, version_starts, scalars, strict=True)
    ]
    return TrainBatch(samples=tuple(samples))


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Several sequences packed into one row without padding. T tokens, S sequences.

    The logprob at position t is that of token t + 1; only positions that predict a sampled token are trained:
    `targets[k]` is the token predicted at row position `positions[k]`, K in all, sequence by sequence.
    Example: sequences [5, 12, 9, 2] and [5, 7, 2] whose last two and last one were sampled: position_ids=[0, 1, 2, 3,
    0, 1, 2], positions=[1, 2, 5], targets=[9, 2, 2], sequence_index=[0, 0, 1].
    """

    sample_indices: np.ndarray  # [S] int64, places in TrainBatch.samples
    token_ids: np.ndarray  # [T] int64
    position_ids: np.ndarray  # [T] int64, restarting at 0 for each sequence
    sequence_lengths: np.ndarray  # [S] int64, all tokens
    positions: np.ndarray  # [K] int64, row positions whose next token was sampled
    targets: np.ndarray  # [K] int64
    sequence_index: np.ndarray  # [K] int64, 0..S-1
    group_index: np.ndarray  # [K] int64, of TrainBatch.group_index
    rollout_logprobs: np.ndarray  # [K] float32
    advantages: np.ndarray  # [K] float32
    loss_weights: np.ndarray  # [K] float32, fixed over the global minibatch of one optimizer step; 0 in filler


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """Measurements of one optimizer step over all ranks. Metrics carry the names of metrics.jsonl."""

    num_tokens: int  # sampled tokens trained
    grad_norm: float  # before clipping
    lr: float
    metrics: dict[str, float] = field(default_factory=dict)
