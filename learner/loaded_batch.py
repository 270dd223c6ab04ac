"""The batch of an iteration on one rank, and what its optimizer steps take from it.

In: a TrainBatch with the logprobs fixed when it arrived, and the index of a step. Out: the packed rows of the step, and
the objective's inputs for each row. Knows nothing of models, gates or the other ranks.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from learner.batches.packing import pack_minibatch, split_minibatches, trained_samples
from learner.batches.rows import RowCost
from learner.contract import MicroBatch, TrainBatch
from learner.loss.run_objective import LossInputs
from learner.model.scoring import to_tensor
from learner.spec import LearnerSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedBatch:
    """The batch of an iteration with what stays fixed through its steps."""

    batch: TrainBatch
    iteration: int
    old_logprobs: tuple[np.ndarray, ...]  # one [C] float32 a sample, denominator of every ratio
    reference_logprobs: tuple[np.ndarray, ...] | None  # likewise, of the initial model; None without a KL term

    def rows(self, index: int, spec: LearnerSpec, *, num_ranks: int, row_cost: RowCost) -> list[list[MicroBatch]]:
        """The rows of optimizer step `index` of the iteration, equally many for each rank; the same on all ranks."""
        batch, learner = self.batch, spec.learner
        epoch, minibatch = divmod(index, learner.num_minibatches)
        parts = split_minibatches(
            len(batch.samples), learner.num_minibatches, seed=spec.seed, iteration=self.iteration, epoch=epoch
        )
        indices = trained_samples(batch, parts[minibatch], mask_truncated=spec.objective.overlong == "mask")
        return pack_minibatch(
            batch,
            indices,
            aggregation=learner.loss_aggregation,
            max_new_tokens=spec.max_new_tokens,
            max_tokens=learner.max_tokens_per_micro_batch,
            num_ranks=num_ranks,
            row_cost=row_cost,
        )

    def loss_inputs(self, micro_batch: MicroBatch, logprobs: Tensor, entropy: Tensor) -> LossInputs:
        """The objective's inputs: the forward pass [K] of a micro-batch, and what was known of its tokens before."""

        def tensor(array: np.ndarray) -> Tensor:
            return to_tensor(array, logprobs.device)

        def tokens(by_sample: tuple[np.ndarray, ...]) -> Tensor:
            return tensor(np.concatenate([by_sample[place] for place in micro_batch.sample_indices]))

        return LossInputs(
            logprobs=logprobs,
            entropy=entropy,
            old_logprobs=tokens(self.old_logprobs),
            rollout_logprobs=tensor(micro_batch.rollout_logprobs),
            reference_logprobs=None if self.reference_logprobs is None else tokens(self.reference_logprobs),
            advantages=tensor(micro_batch.advantages),
            loss_weights=tensor(micro_batch.loss_weights),
            sequence_index=tensor(micro_batch.sequence_index),
        )

    def sampled_by_current_weights(self, micro_batch: MicroBatch, index: int) -> np.ndarray:
        """[K] bool: whether the engine drew the token from the weights that the learner has in step `index`."""
        samples = [self.batch.samples[place] for place in micro_batch.sample_indices]
        same = [index == 0 and sample.staleness == 0 and not sample.is_replayed for sample in samples]
        return np.array(same, dtype=bool)[micro_batch.sequence_index]
