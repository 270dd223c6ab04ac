"""LearnerWorker: one rank of the learner. The only file that builds a DeepSpeed engine.

In: a TrainBatch an iteration. Out: one StepReport an optimizer step, the same on every rank; checkpoints; logprobs.
All ranks call the same methods in the same order (group.py sees to it). Knows nothing of Ray, of the engines, or of
how a batch came about.
"""

import math
import os
import resource
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import deepspeed
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from transformers import AutoTokenizer

from gates.audit import AuditTokens, audited_gates
from gates.kernels import loss_function_for
from gates.loss import GateLoss
from learner.audit import StepAudit, step_tokens
from learner.checkpoint import load_engine, save_engine, save_model
from learner.contract import MicroBatch, StepReport, TrainBatch
from learner.deepspeed_config import deepspeed_config
from learner.gate_builder import kernel_of
from learner.objective import gated_objective
from learner.optimizer import build_adamw, lr_at
from learner.packing import pack_minibatch, split_minibatches
from learner.policy import Policy, checkpoint_parameters, load_policy
from learner.run_gate import RunGate
from learner.scoring import Scorer, to_tensor
from learner.sender import SendReport, WeightSender
from learner.shards import ShardLayout
from learner.spec import LearnerSpec
from learner.statistics import StepStatistics
from transfer.communicator import Rendezvous
from transfer.wire import ParameterGroup


class NonFiniteError(RuntimeError):
    """Loss or gradient norm is nan or inf; raised on every rank alike, before the optimizer has moved a weight."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedBatch:
    """The batch of an iteration with what was fixed when it arrived."""

    batch: TrainBatch
    iteration: int
    old_logprobs: tuple[np.ndarray, ...]  # one [C] float32 a sample, denominator of every ratio


class LearnerWorker:
    """One DeepSpeed rank: policy, optimizer, and the batch of the current iteration."""

    def __init__(self, spec: LearnerSpec, *, rank: int, world_size: int, master_address: str, master_port: int) -> None:
        """Join the other ranks and load the model. Waits for all of them; RuntimeError after learner.timeout_s."""
        self.spec = spec
        self.rank = rank
        self.world_size = world_size
        torch.manual_seed(spec.seed)
        self.device = _join_process_group(spec, rank, world_size, master_address, master_port)
        self._gate = RunGate(spec.gate, num_steps=spec.num_steps)
        self._loss_function = loss_function_for(self._gate.gate, kernel=kernel_of(spec.gate), device=self.device)
        self.policy = load_policy(
            spec.model_path,
            dtype=torch.float32 if spec.dtype_name == "float32" else torch.bfloat16,
            device=self.device,
            trust_remote_code=spec.trust_remote_code,
            gradient_checkpointing=spec.learner.gradient_checkpointing,
        )
        self.engine = _build_engine(self.policy, spec)
        self._loaded: LoadedBatch | None = None
        self._layout = ShardLayout(num_ranks=world_size, zero_stage=spec.learner.zero_stage, dtype_name=spec.dtype_name)
        self._scorer = Scorer(self.engine, spec, rank=rank, world_size=world_size, device=self.device)
        self._sender = WeightSender(
            checkpoint_parameters(self.policy), rank=rank, device=self.device, wire_dtype=spec.wire_dtype_name
        )

    def load(self, batch: TrainBatch, iteration: int) -> None:
        """Take the batch of an iteration and fix the denominator of every ratio in it."""
        if self.spec.recomputes_old_logprobs:
            old_logprobs = self._scorer.batch_logprobs(batch)
        else:
            old_logprobs = tuple(sample.rollout_logprobs for sample in batch.samples)
        self._loaded = LoadedBatch(batch=batch, iteration=iteration, old_logprobs=old_logprobs)

    def step(self, index: int) -> StepReport:
        """Optimizer step `index` (0 <= index < spec.num_steps) of the loaded iteration.

        Raises NonFiniteError on all ranks together, with the weights as they were.
        """
        loaded = self._loaded
        assert loaded is not None, "step() needs a batch: call load() first"
        learner = self.spec.learner
        indices = self._minibatch(loaded, index)
        packed = pack_minibatch(
            loaded.batch,
            indices,
            aggregation=learner.loss_aggregation,
            max_new_tokens=self.spec.max_new_tokens,
            max_tokens=learner.max_tokens_per_micro_batch,
            num_ranks=self.world_size,
        )
        places = list(zip(*packed, strict=True))  # one a micro-batch; holds those that the ranks run side by side

        statistics = StepStatistics(num_groups=loaded.batch.num_groups, device=self.device)
        outs = [
            self._accumulate(side_by_side, loaded, index, statistics, is_last=place == len(places) - 1)
            for place, side_by_side in enumerate(places)
        ]
        tokens = step_tokens(loaded.batch, packed[self.rank], [out.metrics for out in outs])
        audit = self._audit(loaded.batch, tokens) if learner.audit else None
        curves = self._gate.measure(tokens, num_groups=loaded.batch.num_groups)
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
        side_by_side: Sequence[MicroBatch],
        loaded: LoadedBatch,
        index: int,
        statistics: StepStatistics,
        *,
        is_last: bool,
    ) -> GateLoss:
        """Forward and backward of this rank's micro-batch; its part of the loss, detached, and what the gate saw.

        Gradients add up until is_last.
        """
        micro_batch = side_by_side[self.rank]
        logprobs, entropy = self._scorer.forward(side_by_side)
        old_logprobs = self._tensor(np.concatenate([loaded.old_logprobs[i] for i in micro_batch.sample_indices]))
        advantages = self._tensor(micro_batch.advantages)
        out = gated_objective(
            logprobs=logprobs,
            old_logprobs=old_logprobs,
            advantages=advantages,
            loss_weights=self._tensor(micro_batch.loss_weights),
            gate=self._gate.gate,
            loss_function=self._loss_function,
        )
        self.engine.set_gradient_accumulation_boundary(is_last)
        # DeepSpeed averages gradients over ranks, but with our loss_weights their sum is the gradient: undone here only
        self.engine.backward(out.loss * self.world_size, scale_wrt_gas=False)
        statistics.add(
            out.metrics,
            group_index=self._tensor(micro_batch.group_index),
            advantages=advantages,
            loss=out.loss,
            entropy=entropy,
            mismatch_log_ratio=logprobs.detach() - self._tensor(micro_batch.rollout_logprobs),
            same_weights=self._tensor(_sampled_from_these_weights(micro_batch, loaded, index)),
        )
        if not is_last:
            self.engine.step()  # counts the micro-batch; moves nothing before the boundary
        return replace(out, loss=out.loss.detach())

    def _audit(self, batch: TrainBatch, tokens: AuditTokens) -> StepAudit:
        """What every gate would have done with this rank's tokens of the step, under the taus now in force."""
        return StepAudit(audited_gates(self._gate.gate), batch=batch, tokens=tokens)

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
        """What a publish sends, in wire order."""
        return self._sender.groups

    def connect(self, rendezvous: Rendezvous) -> None:
        """Meet the engines' workers for the publishes to come; rank 0 waits for all of them."""
        self._sender.connect(rendezvous)

    def send_weights(self, verify: bool) -> SendReport:
        """Broadcast the current weights to every engine; the report of rank 0 counts."""
        return self._sender.send(verify=verify)

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


def _join_process_group(
    spec: LearnerSpec, rank: int, world_size: int, master_address: str, master_port: int
) -> torch.device:
    """Meet the other ranks over nccl or gloo; this rank's device. Ray shows a rank one GPU only, hence LOCAL_RANK 0."""
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_RANK="0",
        MASTER_ADDR=master_address,
        MASTER_PORT=str(master_port),
    )
    if spec.device == "cuda":
        torch.cuda.set_device(0)
    # or DeepSpeed compiles a shared-memory all-reduce here (a minute, g++, ninja) that only its inference engine calls
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(
        dist_backend="nccl" if spec.device == "cuda" else "gloo",
        auto_mpi_discovery=False,
        verbose=False,
        timeout=timedelta(seconds=spec.learner.timeout_s),
        rank=rank,
        world_size=world_size,
    )
    return torch.device(spec.device, 0) if spec.device == "cuda" else torch.device("cpu")


def _build_engine(policy: Policy, spec: LearnerSpec) -> deepspeed.DeepSpeedEngine:
    learner = spec.learner
    optimizer = build_adamw(
        policy.parameters(), lr=learner.lr, betas=learner.betas, eps=learner.eps, weight_decay=learner.weight_decay
    )
    config = deepspeed_config(
        spec,
        num_parameters=sum(parameter.numel() for parameter in policy.parameters()),
        hidden_size=policy.model.config.hidden_size,
    )
    engine, *_ = deepspeed.initialize(model=policy, optimizer=optimizer, config=config, dist_init_required=False)
    return engine


def _sampled_from_these_weights(micro_batch: MicroBatch, loaded: LoadedBatch, index: int) -> np.ndarray:
    """[K] bool: the engine drew the token from the weights that the learner has in step `index`."""
    same = [index == 0 and loaded.batch.samples[i].staleness == 0 for i in micro_batch.sample_indices]
    return np.array(same, dtype=bool)[micro_batch.sequence_index]


def _norm_of_whole_gradients(policy: Policy) -> float:
    gradients = [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
    return float(torch.linalg.vector_norm(torch.stack(norms)))
