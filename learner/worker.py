"""LearnerWorker: one rank of the learner.

In: a TrainBatch an iteration. Out: one StepReport an optimizer step, the same on every rank; checkpoints; logprobs.
All ranks call the same methods in the same order (group.py sees to it). Knows nothing of Ray, of the engines, or of
how a batch came about.
"""

import math
import resource
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import AutoTokenizer

from gates.audit import audited_gates
from gates.kernels import loss_function_for
from learner.batches.packing import pack_minibatch, split_minibatches, trained_samples
from learner.checkpoint import load_engine, save_engine, save_model
from learner.contract import MicroBatch, StepReport, TrainBatch
from learner.engine_start import build_engine, build_reference, join_process_group, load_initial_model
from learner.loss.audit import StepAudit, step_tokens
from learner.loss.gate_builder import kernel_of
from learner.loss.run_gate import RunGate, StepCurves
from learner.loss.run_objective import LossInputs, ObjectiveLoss, RunObjective
from learner.loss.statistics import StepStatistics
from learner.model.ahead_scores import AheadScores
from learner.model.policy import Policy, row_cost_of
from learner.model.scoring import Scorer, to_tensor
from learner.model.weights import published_weights
from learner.optimizer import lr_at
from learner.sender import SendReport, WeightSender
from learner.shards import ShardLayout
from learner.spec import LearnerSpec
from transfer.transport import Rendezvous
from transfer.wire import ParameterGroup


class NonFiniteError(RuntimeError):
    """Loss or gradient norm is nan or inf; raised on every rank alike, before the optimizer has moved a weight."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedBatch:
    """The batch of an iteration with what was fixed when it arrived."""

    batch: TrainBatch
    iteration: int
    old_logprobs: tuple[np.ndarray, ...]  # one [C] float32 a sample, denominator of every ratio
    reference_logprobs: tuple[np.ndarray, ...] | None  # likewise, of the initial model; None without a KL term


class LearnerWorker:
    """One DeepSpeed rank: policy, optimizer, and the batch of the current iteration."""

    def __init__(self, spec: LearnerSpec, *, rank: int, world_size: int, master_address: str, master_port: int) -> None:
        """Join the other ranks and load the model. Waits for all of them; RuntimeError after learner.timeout_s."""
        self.spec = spec
        self.rank = rank
        self.world_size = world_size
        torch.manual_seed(spec.seed)
        self.device = join_process_group(
            spec, rank=rank, world_size=world_size, master_address=master_address, master_port=master_port
        )
        self._gate = RunGate(spec.gate, num_steps=spec.num_steps)
        self._objective = RunObjective(
            spec.objective,
            loss_function=loss_function_for(self._gate.gate, kernel=kernel_of(spec.gate), device=self.device),
        )
        checkpointing = spec.learner.gradient_checkpointing
        self.policy = load_initial_model(
            spec, self.device, gradient_checkpointing=checkpointing, lora=spec.learner.lora
        )
        self._row_cost = row_cost_of(self.policy)
        self.engine = build_engine(self.policy, spec)
        self._scorer = self._scorer_of(self.engine)
        self._old: AheadScores | None = None
        if spec.recomputes_old_logprobs:
            self._old = AheadScores(self._scorer.batch_logprobs)
        self._reference: AheadScores | None = None
        if spec.objective.kl_coef > 0.0:
            self._reference = AheadScores(self._reference_scorer().batch_logprobs)
        self._loaded: LoadedBatch | None = None
        self._layout = ShardLayout(num_ranks=world_size, zero_stage=spec.learner.zero_stage, dtype_name=spec.dtype_name)
        self._sender = WeightSender(
            published_weights(self.policy), rank=rank, device=self.device, wire_dtype=spec.wire_dtype_name
        )

    def _reference_scorer(self) -> Scorer:
        """Scores under the initial model: a second one, or the policy without its adapters."""
        if self.policy.adapters is None:
            return self._scorer_of(build_reference(self.spec, self.device))
        return self._scorer_of(self.engine, context=self.policy.adapters.disabled)

    def _scorer_of(
        self, engine: nn.Module, *, context: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> Scorer:
        return Scorer(
            engine,
            self.spec,
            row_cost=self._row_cost,
            rank=self.rank,
            world_size=self.world_size,
            device=self.device,
            context=context,
        )

    def score_ahead(self, part: TrainBatch) -> None:
        """Compute now what load() would of these sequences of the batch to come; no step may be taken in between."""
        for scores in (self._old, self._reference):
            if scores is not None:
                scores.add(part)

    def load(self, batch: TrainBatch, iteration: int) -> None:
        """Take the batch of an iteration and fix what stays through its steps: ratios' denominators, the reference."""
        rollout_logprobs = tuple(sample.rollout_logprobs for sample in batch.samples)
        self._loaded = LoadedBatch(
            batch=batch,
            iteration=iteration,
            old_logprobs=self._old.take(batch) if self._old else rollout_logprobs,
            reference_logprobs=self._reference.take(batch) if self._reference else None,
        )

    def scored_ahead_share(self) -> float:
        """Share of the loaded batch's completions that score_ahead() had been given."""
        return max((scores.share for scores in (self._old, self._reference) if scores is not None), default=0.0)

    def step(self, index: int) -> StepReport:
        """Optimizer step `index` (0 <= index < spec.num_steps) of the loaded iteration.

        Raises NonFiniteError on all ranks together, with the weights as they were.
        """
        loaded = self._loaded
        assert loaded is not None, "step() needs a batch: call load() first"
        learner = self.spec.learner
        indices = trained_samples(
            loaded.batch,
            self._minibatch(loaded, index),
            mask_truncated=self.spec.objective.overlong == "mask",
        )
        packed = pack_minibatch(
            loaded.batch,
            indices,
            aggregation=learner.loss_aggregation,
            max_new_tokens=self.spec.max_new_tokens,
            max_tokens=learner.max_tokens_per_micro_batch,
            num_ranks=self.world_size,
            row_cost=self._row_cost,
        )
        own = packed[self.rank]  # of as many micro-batches as every other rank has

        statistics = StepStatistics(
            num_groups=loaded.batch.num_groups, device=self.device, token_means=self._objective.token_means
        )
        outs = [
            self._accumulate(micro_batch, loaded, index, statistics, is_last=place == len(own) - 1)
            for place, micro_batch in enumerate(own)
        ]
        audit, curves = self._look_at_tokens(loaded.batch, own, outs)
        where = f"iteration {loaded.iteration}, step {index}"
        sums = [part.sums for part in (statistics, audit, curves) if part is not None]
        self._merge(sums, statistics.maxima, torch.stack([out.loss for out in outs]).sum(), where)
        lr = self._set_lr(loaded.iteration * self.spec.num_steps + index)
        grad_norm = self._optimizer_step(where)
        metrics = statistics.summarize() | self._gate.metrics() | (audit.summarize() if audit else {})
        self._gate.follow(metrics, curves)
        return StepReport(
            num_tokens=statistics.num_tokens, num_sequences=len(indices), grad_norm=grad_norm, lr=lr, metrics=metrics
        )

    def _minibatch(self, loaded: LoadedBatch, index: int) -> np.ndarray:
        """Places in the batch of the samples of optimizer step `index`."""
        num_minibatches = self.spec.learner.num_minibatches
        epoch, minibatch = divmod(index, num_minibatches)
        num_samples, seed = len(loaded.batch.samples), self.spec.seed
        parts = split_minibatches(num_samples, num_minibatches, seed=seed, iteration=loaded.iteration, epoch=epoch)
        return parts[minibatch]

    def _accumulate(
        self,
        micro_batch: MicroBatch,
        loaded: LoadedBatch,
        index: int,
        statistics: StepStatistics,
        *,
        is_last: bool,
    ) -> ObjectiveLoss:
        """Forward and backward of this rank's micro-batch; its part of the loss, detached, and what it was made of.

        Gradients add up until is_last.
        """
        inputs = self._inputs(micro_batch, loaded)
        out = self._objective(inputs, self._gate.gate)
        self.engine.set_gradient_accumulation_boundary(is_last)
        # DeepSpeed averages gradients over ranks, but with our loss_weights their sum is the gradient: undone here only
        self.engine.backward(out.loss * self.world_size, scale_wrt_gas=False)
        statistics.add(
            out.gate,
            group_index=self._tensor(micro_batch.group_index),
            advantages=inputs.advantages,
            loss=out.loss,
            entropy=inputs.entropy,
            mismatch_log_ratio=inputs.logprobs.detach() - inputs.rollout_logprobs,
            same_weights=self._tensor(_sampled_from_these_weights(micro_batch, loaded, index)),
            token_means=out.token_means,
        )
        if not is_last:
            self.engine.step()  # counts the micro-batch; moves nothing before the boundary
        return replace(out, loss=out.loss.detach())

    def _inputs(self, micro_batch: MicroBatch, loaded: LoadedBatch) -> LossInputs:
        """The forward pass of a micro-batch, and what is known of its tokens."""
        logprobs, entropy = self._scorer.forward(micro_batch)
        reference = loaded.reference_logprobs
        return LossInputs(
            logprobs=logprobs,
            entropy=entropy,
            old_logprobs=self._tokens(loaded.old_logprobs, micro_batch),
            rollout_logprobs=self._tensor(micro_batch.rollout_logprobs),
            reference_logprobs=None if reference is None else self._tokens(reference, micro_batch),
            advantages=self._tensor(micro_batch.advantages),
            loss_weights=self._tensor(micro_batch.loss_weights),
            sequence_index=self._tensor(micro_batch.sequence_index),
        )

    def _tokens(self, by_sample: tuple[np.ndarray, ...], micro_batch: MicroBatch) -> Tensor:
        """[K] on the device, from one [C] array a sample of the batch."""
        return self._tensor(np.concatenate([by_sample[index] for index in micro_batch.sample_indices]))

    def _look_at_tokens(
        self, batch: TrainBatch, micro_batches: Sequence[MicroBatch], outs: Sequence[ObjectiveLoss]
    ) -> tuple[StepAudit | None, StepCurves | None]:
        """What every gate, and the own one at every tau, would have done with this rank's tokens of the step.

        Under the taus now in force. None for what was not asked for; gathering the tokens costs time.
        """
        if not (self.spec.learner.audit or self._gate.is_adaptive):
            return None, None
        tokens = step_tokens(batch, micro_batches, outs)
        audit = None
        if self.spec.learner.audit:
            audit = StepAudit(audited_gates(self._gate.gate), batch=batch, tokens=tokens)
        return audit, self._gate.measure(tokens, num_groups=batch.num_groups)

    def _merge(self, parts: Sequence[Tensor], step_maxima: Tensor, loss: Tensor, where: str) -> None:
        """Sum and maximum over ranks, in place; NonFiniteError on all ranks if the loss of one is nan or inf."""
        failed_rank = torch.where(torch.isfinite(loss), -1.0, float(self.rank)).double().reshape(1)
        maxima = torch.cat([step_maxima, failed_rank])
        sums = torch.cat(list(parts))
        dist.all_reduce(sums, op=dist.ReduceOp.SUM)
        dist.all_reduce(maxima, op=dist.ReduceOp.MAX)
        for part, merged in zip(parts, sums.split([len(part) for part in parts]), strict=True):
            part.copy_(merged)
        step_maxima.copy_(maxima[:-1])
        if maxima[-1] >= 0:
            raise NonFiniteError(f"the loss is not finite on learner rank {int(maxima[-1])} ({where}); no weight moved")

    def _set_lr(self, step: int) -> float:
        learner = self.spec.learner
        lr = lr_at(step, total_steps=self.spec.total_steps, lr=learner.lr, schedule=learner.lr_schedule)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _optimizer_step(self, where: str) -> float:
        """Clip and step; the gradient norm over all ranks before clipping. NonFiniteError where that is not finite.

        ZeRO's optimizers refuse a non-finite norm by themselves and say so; plain AdamW (stage 0) must be kept from it.
        """
        failure = f"the gradient norm over {self.world_size} learner rank(s) is not finite ({where}); no weight moved"
        if self.spec.learner.zero_stage == 0:
            grad_norm = _norm_of_whole_gradients(self.policy)
            if not math.isfinite(grad_norm):
                raise NonFiniteError(failure)
            self.engine.step()
            return grad_norm
        self.engine.step()
        if not self.engine.was_step_applied():
            raise NonFiniteError(failure)
        return float(self.engine.get_global_grad_norm())

    def score(self, token_ids: np.ndarray, prompt_length: int) -> np.ndarray:
        """Logprobs [C] float32 of a sequence's completion tokens ([P + C] ids), current weights, temperature 1."""
        return self._scorer.sequence_logprobs(token_ids, prompt_length)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return to_tensor(array, self.device)

    def peak_memory_bytes(self) -> float:
        """The most memory this rank has held so far: of its GPU, or of the process on a CPU."""
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device))
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

    def parameter_groups(self) -> list[ParameterGroup]:
        """What a publish of all weights sends, in wire order."""
        return self._sender.groups

    def changing_groups(self) -> list[ParameterGroup]:
        """What a publish of those weights sends that differ from the publish before."""
        return self._sender.changing_groups

    def connect(self, rendezvous: Rendezvous) -> None:
        """Meet the engines' workers for the publishes to come; rank 0 waits for all of them."""
        self._sender.connect(rendezvous)

    def send_weights(self, verify: bool, only_changing: bool) -> SendReport:
        """Broadcast the current weights to every engine, all or the changing ones; the report of rank 0 counts."""
        return self._sender.send(verify=verify, only_changing=only_changing)

    def save(self, path: str) -> None:
        """Write weights, optimizer state and random state of all ranks into the existing folder `path`, shared by them.

        Raises FileNotFoundError on a rank that does not see the folder.
        """
        save_engine(self.engine, Path(path), rank=self.rank, layout=self._layout)
        if self.rank == 0:
            self._gate.save(Path(path))
        dist.barrier()

    def restore(self, path: str) -> None:
        """Continue from a folder that save() wrote; before the first step.

        Raises ValueError where it was written with another number of ranks, ZeRO stage or dtype.
        """
        load_engine(self.engine, Path(path), rank=self.rank, layout=self._layout)
        self._gate.restore(Path(path))
        self._loaded = None

    def save_pretrained(self, path: str) -> None:
        """Write model and tokenizer into the existing folder `path`, as Hugging Face does; rank 0 writes."""
        save_model(self.policy, Path(path), rank=self.rank)
        if self.rank == 0:
            trust = self.spec.trust_remote_code
            AutoTokenizer.from_pretrained(self.spec.model_path, trust_remote_code=trust).save_pretrained(path)
        dist.barrier()


def _sampled_from_these_weights(micro_batch: MicroBatch, loaded: LoadedBatch, index: int) -> np.ndarray:
    """[K] bool: the engine drew the token from the weights that the learner has in step `index`."""
    samples = [loaded.batch.samples[i] for i in micro_batch.sample_indices]
    same = [index == 0 and sample.staleness == 0 and not sample.is_replayed for sample in samples]
    return np.array(same, dtype=bool)[micro_batch.sequence_index]


def _norm_of_whole_gradients(policy: Policy) -> float:
    gradients = [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
    return float(torch.linalg.vector_norm(torch.stack(norms)))
