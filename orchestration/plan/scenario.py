"""A configuration as the planner sees it: dtypes resolved, memory counted, a Workload for the simulation.

In: a RunConfig, the model's shape, the device, and a sample of completion lengths. Out: a Scenario, which can be asked
what the same run would be with other numbers of engines and ranks.
"""

from dataclasses import dataclass, replace

from configs.schema import RunConfig
from orchestration.plan.memory import DTYPE_BYTES, EngineMemory, LearnerMemory, engine_memory, learner_memory
from orchestration.plan.model_shape import ModelShape
from orchestration.plan.simulation import Workload
from orchestration.plan.trained import trained_parameters


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """One run on one kind of device."""

    config: RunConfig
    shape: ModelShape
    device: str  # cpu or gpu
    device_bytes: float | None  # memory of one device; None where nobody said
    prompt_length: int
    lengths: tuple[int, ...]  # a sample of completion lengths

    @property
    def engine_dtype(self) -> str:
        return self._resolved(self.config.rollout.dtype)

    @property
    def learner_dtype(self) -> str:
        return self._resolved(self.config.learner.dtype)

    def _resolved(self, dtype: str) -> str:
        if dtype != "auto":
            return dtype
        return "float32" if self.device == "cpu" else "bfloat16"

    def learner_memory(self, num_ranks: int) -> LearnerMemory:
        return learner_memory(
            self.shape,
            self.config.learner,
            dtype=self.learner_dtype,
            num_ranks=num_ranks,
            max_logits=self.config.learner.max_logits,
            keeps_reference=self.config.objective.kl_coef > 0.0,
        )

    def engine_memory(self) -> EngineMemory | None:
        """None where the device's memory is not known and decides about the cache."""
        rollout = self.config.rollout
        cache_bytes = rollout.kv_cache_gib * 2**30 if self.device == "cpu" else None
        if cache_bytes is None and self.device_bytes is None:
            return None
        return engine_memory(
            self.shape,
            dtype=self.engine_dtype,
            workers=rollout.tensor_parallel_size,
            cache_bytes=cache_bytes,
            worker_bytes=(self.device_bytes or 0.0) * rollout.gpu_memory_utilization,
            max_model_len=self.config.model.max_model_len,
        )

    def misfit(self, num_ranks: int) -> str | None:
        """One line where a rank or an engine does not fit its device; None where it does, or nobody knows."""
        if self.device == "cpu" or self.device_bytes is None:
            return None
        share = self.device_bytes * self.config.cluster.gpus_per_learner
        needed = self.learner_memory(num_ranks).total
        if needed > share:
            return f"a learner rank needs {needed / 1e9:.0f} GB, there are {share / 1e9:.0f}"
        engine = self.engine_memory()
        if engine is not None and engine.longest_sequences < 1:
            return f"an engine worker's weights ({engine.weights / 1e9:.0f} GB) leave no room for one sequence"
        return None

    def workload(self, *, num_engines: int | None = None, num_ranks: int | None = None) -> Workload:
        """The run with so many engines and ranks; those of the configuration where not told."""
        rollout, learner = self.config.rollout, self.config.learner
        engine = self.engine_memory()
        parameters = trained_parameters(self.shape, learner.lora)
        recomputes = learner.old_logprobs == "recompute" or (learner.old_logprobs == "auto" and self.device != "cpu")
        # what the cache holds where nobody knows: every seat at its longest
        seats_full = rollout.max_num_seqs * self.config.model.max_model_len
        return Workload(
            prompts_per_iteration=rollout.prompts_per_iteration,
            completions_per_prompt=rollout.completions_per_prompt,
            prompt_length=self.prompt_length,
            lengths=self.lengths,
            max_staleness=self.config.max_staleness,
            batch_order=rollout.batch_order,
            publishes_inflight=self.config.publish.inflight,
            num_engines=num_engines or rollout.num_engines,
            workers_per_engine=rollout.tensor_parallel_size,
            max_sequences=rollout.max_num_seqs,
            kv_tokens=seats_full if engine is None else max(1, engine.kv_tokens),
            num_ranks=num_ranks or learner.num_workers,
            num_minibatches=learner.num_minibatches,
            num_epochs=learner.num_epochs,
            max_tokens=learner.max_tokens_per_micro_batch,
            zero_stage=learner.zero_stage,
            recomputes_logprobs=recomputes,
            keeps_reference=self.config.objective.kl_coef > 0.0,
            num_graders=self.config.graders.num_workers,
            trained_parameters=parameters.trained,
            gathered_parameters=parameters.held,
            published_parameters=parameters.published,
            learner_weight_bytes=DTYPE_BYTES[self.learner_dtype],
            wire_weight_bytes=DTYPE_BYTES[self.engine_dtype],
        )

    def at_staleness(self, max_staleness: int) -> "Scenario":
        return replace(self, config=self.config.model_copy(update={"max_staleness": max_staleness}))

    def most_ranks(self) -> int:
        """Beyond which a rank would have no completion of a minibatch."""
        rollout = self.config.rollout
        completions = rollout.prompts_per_iteration * rollout.completions_per_prompt
        return max(1, completions // self.config.learner.num_minibatches)

    def most_engines(self) -> int:
        """Beyond which an engine would have no prompt, those admitted ahead included."""
        return self.config.rollout.prompts_per_iteration * (1 + self.config.max_staleness)
