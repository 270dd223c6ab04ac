"""The audit of one optimizer step on one rank: one pass over the tokens of all its micro-batches.

In: the objective's outputs for each micro-batch. Out: sums that the ranks add up, and metrics from them. One pass a
step, because micro-batches are so small that starting an operation costs more than its work.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from gates import Gate
from gates.audit import Audit, AuditTokens
from learner.contract import MicroBatch, TrainBatch
from learner.loss.run_objective import ObjectiveLoss
from learner.model.scoring import to_tensor


class StepAudit:
    """What every gate would have done with the tokens of a step.

    `sums` is [S] float64, of one size on all ranks, to be added up over the ranks in place before summarize().
    """

    def __init__(self, gates: Mapping[str, Gate], *, batch: TrainBatch, tokens: AuditTokens) -> None:
        """batch: of the whole iteration, equal on all ranks; tokens: this rank's tokens of the step."""
        largest_staleness = max(sample.staleness for sample in batch.samples)
        self._audit = Audit(gates=gates, num_groups=batch.num_groups, num_staleness=largest_staleness + 1)
        self.sums = self._audit.sums(tokens)

    def summarize(self) -> dict[str, float]:
        """Metrics by name."""
        return self._audit.summarize(self.sums)


def step_tokens(batch: TrainBatch, micro_batches: Sequence[MicroBatch], outs: Sequence[ObjectiveLoss]) -> AuditTokens:
    """The trained tokens of a step on one rank. outs: one for each of its micro-batches."""
    staleness = np.array([sample.staleness for sample in batch.samples], dtype=np.int64)
    trained = torch.cat([out.gate.trained for out in outs])
    log_ratio = torch.cat([out.gate.log_ratio for out in outs])[trained]
    token_log_ratio = torch.cat([out.token_log_ratio for out in outs])[trained]
    keep = trained.cpu().numpy()
    samples = np.concatenate([row.sample_indices[row.sequence_index] for row in micro_batches])[keep]
    advantages = np.concatenate([row.advantages for row in micro_batches])[keep]
    group_index = np.concatenate([row.group_index for row in micro_batches])[keep]
    device = log_ratio.device
    return AuditTokens(
        log_ratio=log_ratio,
        token_log_ratio=token_log_ratio,
        advantages=to_tensor(advantages, device),
        group_index=to_tensor(group_index, device),
        staleness=to_tensor(staleness[samples], device),
        sequence=to_tensor(samples, device),
    )
