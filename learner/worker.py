"""LearnerWorker: one rank of the learner.

In: a TrainBatch an iteration. Out: one StepReport an optimizer step, the same on every rank; checkpoints; logprobs.
All ranks call the same methods in the same order (group.py sees to it). Knows nothing of Ray, of the engines, or of
how a batch came about.
"""

import resource
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from gates.audit import audited_gates
from gates.kernels import loss_function_for
from learner.checkpoints.fragments import OptimizerState
from learner.checkpoints.pretrained import copy_model, save_tokenizer, write_model
from learner.checkpoints.shared_folder import require_folder
from learner.checkpoints.training_state import copy_state, load_state
from learner.checkpoints.writing import Share, ShareWriter
from learner.contract import MicroBatch, StepReport, TrainBatch
from learner.engine_start import build_engine, build_reference, join_process_group, load_initial_model
from learner.loaded_batch import LoadedBatch
from learner.loss.audit import StepAudit, step_tokens
from learner.loss.gate_builder import kernel_of
from learner.loss.run_gate import RunGate, StepCurves
from learner.loss.run_objective import ObjectiveLoss, RunObjective
from learner.loss.statistics import StepStatistics
from learner.model.policy import row_cost_of
from learner.model.scoring import LogprobCache, Scorer, to_tensor
from learner.model.weights import published_weights
from learner.optimizer import merge_over_ranks, set_lr, take_step
from learner.sender import SendReport, WeightSender
from learner.spec import LearnerSpec
from transfer.fingerprints import Fingerprint
from transfer.transport import Rendezvous
from transfer.wire import ParameterGroup


class LearnerWorker:
    """One DeepSpeed rank: policy, optimizer, and the batch of the current iteration."""

    def __init__(self, spec: LearnerSpec, *, rank: int, world_size: int, master_address: str, master_port: int) -> None:
        """Joins the other ranks and loads the model. Waits for all ranks; RuntimeError after learner.timeout_s."""
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
        self.policy = load_initial_model(spec, self.device)
        self._row_cost = row_cost_of(self.policy)
        self.engine = build_engine(self.policy, spec)
        scorer = partial(
            Scorer, spec=spec, row_cost=self._row_cost, rank=rank, world_size=world_size, device=self.device
        )
        self._scorer = scorer(self.engine)
        self._old = LogprobCache(self._scorer.batch_logprobs) if spec.recomputes_old_logprobs else None
        self._reference: LogprobCache | None = None
        if spec.objective.kl_coef > 0.0:
            if self.policy.adapters is None:
                reference = scorer(build_reference(spec, self.device))
            else:  # with its adapters disabled, the policy is the initial model
                reference = scorer(self.engine, context=self.policy.adapters.disabled)
            self._reference = LogprobCache(reference.batch_logprobs)
        self._loaded: LoadedBatch | None = None
        self._writer = ShareWriter(self.policy, spec)
        self._sender = WeightSender(
            published_weights(self.policy), rank=rank, device=self.device, wire_dtype=spec.wire_dtype_name
        )

    def score_ahead(self, part: TrainBatch) -> None:
        """Computes logprobs of sequences of the next batch before load() needs them; no step may come in between."""
        for scores in filter(None, (self._old, self._reference)):
            scores.add(part)

    def load(self, batch: TrainBatch, iteration: int) -> None:
        """Takes the batch of an iteration; computes the old and reference logprobs, which its steps do not change."""
        # dropout is off; a model that draws numbers all the same draws equal ones after a resume
        torch.manual_seed(self.spec.seed + iteration)
        rollout_logprobs = tuple(sample.tokens.rollout_logprobs for sample in batch.samples)
        self._loaded = LoadedBatch(
            batch=batch,
            iteration=iteration,
            old_logprobs=self._old.take(batch) if self._old else rollout_logprobs,
            reference_logprobs=self._reference.take(batch) if self._reference else None,
        )

    def scored_ahead_share(self) -> float:
        """Share of the loaded batch's completions whose logprobs score_ahead() had computed."""
        return max((scores.share for scores in filter(None, (self._old, self._reference))), default=0.0)

    def step(self, index: int) -> StepReport:
        """Takes optimizer step `index` (0 <= index < spec.num_steps) of the loaded iteration.

        Raises NonFiniteError on all ranks together, with the weights unchanged.
        """
        loaded = self._loaded
        assert loaded is not None, "step() needs a batch: call load() first"
        own = loaded.rows(index, self.spec, num_ranks=self.world_size, row_cost=self._row_cost)[self.rank]
        statistics = StepStatistics(
            num_groups=loaded.batch.num_groups, device=self.device, token_means=self._objective.token_means
        )
        outs = [
            self._accumulate(micro_batch, loaded, index, statistics, is_last=place == len(own) - 1)
            for place, micro_batch in enumerate(own)
        ]
        audit, curves = self._audit(loaded.batch, own, outs)
        where = f"iteration {loaded.iteration}, step {index}"
        merge_over_ranks(
            [part.sums for part in (statistics, audit, curves) if part is not None],
            statistics.maxima,
            loss=torch.stack([out.loss for out in outs]).sum(),
            where=where,
        )
        lr = set_lr(self.engine.optimizer, self.spec, step=loaded.iteration * self.spec.num_steps + index)
        grad_norm = self._optimizer_step(where)
        metrics = statistics.summarize() | self._gate.metrics() | (audit.summarize() if audit else {})
        self._gate.follow(metrics, curves)
        return StepReport(num_tokens=statistics.num_tokens, grad_norm=grad_norm, lr=lr, metrics=metrics)

    def _accumulate(
        self, micro_batch: MicroBatch, loaded: LoadedBatch, index: int, statistics: StepStatistics, *, is_last: bool
    ) -> ObjectiveLoss:
        """Runs forward and backward of one micro-batch of this rank; returns its part of the loss, detached.

        Gradients add up until is_last.
        """
        inputs = loaded.loss_inputs(micro_batch, *self._scorer.forward(micro_batch))
        out = self._objective(inputs, self._gate.gate)
        self.engine.set_gradient_accumulation_boundary(is_last)
        # DeepSpeed averages gradients over ranks, but with our loss_weights their sum is the gradient: undone here only
        self.engine.backward(out.loss * self.world_size, scale_wrt_gas=False)
        statistics.add(
            out.gate,
            group_index=to_tensor(micro_batch.group_index, self.device),
            advantages=inputs.advantages,
            loss=out.loss,
            entropy=inputs.entropy,
            mismatch_log_ratio=inputs.logprobs.detach() - inputs.rollout_logprobs,
            same_weights=to_tensor(loaded.sampled_by_current_weights(micro_batch, index), self.device),
            token_means=out.token_means,
        )
        if not is_last:
            self.engine.step()  # counts the micro-batch; moves nothing before the boundary
        return replace(out, loss=out.loss.detach())

    def _audit(
        self, batch: TrainBatch, micro_batches: Sequence[MicroBatch], outs: Sequence[ObjectiveLoss]
    ) -> tuple[StepAudit | None, StepCurves | None]:
        """What every built-in gate, and the run's gate at every tau, would have done with this rank's tokens.

        None for what was not asked for, because gathering the tokens costs time.
        """
        if not (self.spec.learner.audit or self._gate.is_adaptive):
            return None, None
        tokens = step_tokens(batch, micro_batches, outs)
        audit = None
        if self.spec.learner.audit:
            audit = StepAudit(audited_gates(self._gate.gate), batch=batch, tokens=tokens)
        return audit, self._gate.measure(tokens, num_groups=batch.num_groups)

    def _optimizer_step(self, where: str) -> float:
        return take_step(self.engine, zero_stage=self.spec.learner.zero_stage, where=where)

    def score(self, token_ids: np.ndarray, prompt_length: int) -> np.ndarray:
        """Logprobs [C] float32 of a sequence's completion tokens ([P + C] ids): current weights, temperature 1."""
        return self._scorer.sequence_logprobs(token_ids, prompt_length)

    def peak_memory_bytes(self) -> float:
        """Peak memory of this rank so far: of its GPU, or of its process on a CPU."""
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device))
        return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Groups of parameters that a publish of all weights sends, in wire order."""
        return self._sender.groups

    def changing_groups(self) -> list[ParameterGroup]:
        """Groups of parameters that hold every weight that training changes, in wire order."""
        return self._sender.changing_groups

    def connect(self, rendezvous: Rendezvous) -> None:
        """Connects to the engines' workers for later publishes; rank 0 waits for all of them."""
        self._sender.connect(rendezvous)

    def send_weights(self, verify: bool, only_changing: bool) -> SendReport:
        """Broadcasts the current weights to every engine, all or the changing ones; only rank 0's report counts."""
        return self._sender.send(verify=verify, only_changing=only_changing)

    def save(self, path: str, pretrained: bool) -> None:
        """Copies all state to host memory, and begins to write it into the existing shared folder `path`.

        pretrained: with the weights as a Hugging Face folder in it. Raises FileNotFoundError on a rank that does not
        see the folder.
        """
        require_folder(Path(path))
        model = copy_model(self.policy, rank=self.rank) if pretrained else None
        state = copy_state(self._optimizer_state(), rank=self.rank, texts=self._gate.files())
        self._writer.start(Share(state=state, model=model if self.rank == 0 else None), Path(path))

    def is_saving(self) -> bool:
        """Whether what save() began is still being written."""
        return self._writer.is_busy

    def await_saved(self) -> dict[str, Fingerprint]:
        """Waits for what save() began; fingerprints of the files that this rank wrote, by path below the folder."""
        return self._writer.await_written()

    def restore(self, path: str) -> None:
        """Continues from a folder that save() wrote with any number of ranks; to be called before the first step.

        Raises ShardError where another model or adapter was trained there.
        """
        load_state(self._optimizer_state(), Path(path))
        self._gate.restore(Path(path))
        self._loaded = None

    def save_pretrained(self, path: str) -> None:
        """Writes model and tokenizer into the existing folder `path` as Hugging Face does; rank 0 writes."""
        if self.rank == 0:
            require_folder(Path(path))
        model = copy_model(self.policy, rank=self.rank)
        if self.rank == 0:
            write_model(model, self.policy, Path(path))
            save_tokenizer(self.spec, Path(path))
        dist.barrier()

    def _optimizer_state(self) -> OptimizerState:
        stage = self.spec.learner.zero_stage
        return OptimizerState(self.engine, zero_stage=stage, rank=self.rank, num_ranks=self.world_size)
