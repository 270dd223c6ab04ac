"""A configuration as the planner sees it: dtypes resolved, memory counted, a Workload for the simulation.

In: a RunConfig, the model's shape, the device, and a sample of completion lengths. Out: a Scenario, which can be asked
what the same run would need with other numbers of engines and ranks. What is counted as memory is what tensors hold;
what an allocator, a driver or a framework keeps beside them is not, and is left to the reader as room.
"""

from dataclasses import dataclass, fields

from configs.schema import RunConfig
from orchestration.plan.costs import Workload
from orchestration.plan.model_shape import ModelShape, TrainedParameters, trained_parameters

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FLOAT32_BYTES = 4
MAX_BUCKET_ELEMENTS = 50_000_000  # as in learner/deepspeed_config.py
TILE_COPIES = 2.5  # float32 arrays of a logit tile's size at a time: logits, their exponentials, part of a gradient


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerMemory:
    """Of one rank, bytes."""

    weights: float
    gradients: float
    optimizer: float  # moments, and float32 weights where the trained ones are not
    reference: float  # the initial model of a KL term; with adapters the policy without them
    buckets: float  # of gradients and parameters on their way
    activations: float  # of one micro-batch
    logits: float

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineMemory:
    """Of one worker of an engine, bytes, and what its key/value cache holds."""

    weights: float
    kv_cache: float  # negative: the weights alone do not fit
    kv_tokens: int  # of the whole engine
    longest_sequences: int  # that fit at their longest

    @property
    def total(self) -> float:
        return self.weights + self.kv_cache


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

    @property
    def parameters(self) -> TrainedParameters:
        return trained_parameters(self.shape, self.config.learner.lora)

    @property
    def keeps_reference(self) -> bool:
        return self.config.objective.kl_coef > 0.0

    def learner_memory(self, num_ranks: int) -> LearnerMemory:
        """ZeRO stage 1 shares out the optimizer, 2 gradients too, 3 weights too; a share is a rank's 1 / num_ranks.

        Stages 0 and 1 add up gradients in the weights' dtype, 2 and 3 in float32.
        """
        learner, size, share = self.config.learner, DTYPE_BYTES[self.learner_dtype], 1.0 / num_ranks
        stage, count = learner.zero_stage, float(self.parameters.trained)
        weights = self.parameters.held * size * (share if stage == 3 else 1.0)
        # ZeRO's optimizers step on float32 copies, also of weights that are float32 themselves
        copies = 1 if stage >= 1 else 0
        logits = min(learner.max_logits, learner.max_tokens_per_micro_batch * self.shape.vocabulary)
        return LearnerMemory(
            weights=weights,
            gradients=count * (FLOAT32_BYTES * share if stage >= 2 else size),
            optimizer=count * FLOAT32_BYTES * (2 + copies) * (share if stage >= 1 else 1.0),
            reference=weights if self.keeps_reference and not learner.lora.is_on else 0.0,
            buckets=0.0 if stage == 0 else 2.0 * min(MAX_BUCKET_ELEMENTS, count) * size,
            activations=activation_bytes(
                self.shape,
                dtype=self.learner_dtype,
                num_tokens=learner.max_tokens_per_micro_batch,
                checkpointing=learner.gradient_checkpointing,
            ),
            logits=TILE_COPIES * FLOAT32_BYTES * logits,
        )

    def engine_memory(self) -> EngineMemory | None:
        """None where the device's memory is not known and decides about the cache."""
        rollout, size = self.config.rollout, DTYPE_BYTES[self.engine_dtype]
        workers = rollout.tensor_parallel_size
        weights = self.shape.num_parameters * size / workers
        if self.device == "cpu":
            cache = rollout.kv_cache_gib * 2**30 / workers
        elif self.device_bytes is not None:
            cache = self.device_bytes * rollout.gpu_memory_utilization - weights
        else:
            return None
        kv_tokens = int(cache * workers // (self.shape.kv_elements * size))
        longest = kv_tokens // self.config.model.max_model_len
        return EngineMemory(weights=weights, kv_cache=cache, kv_tokens=kv_tokens, longest_sequences=longest)

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

    def workload(
        self, *, num_engines: int | None = None, num_ranks: int | None = None, max_staleness: int | None = None
    ) -> Workload:
        """The run with so many engines and ranks; the configuration's numbers where none are given."""
        rollout, learner = self.config.rollout, self.config.learner
        engine, parameters = self.engine_memory(), self.parameters
        recomputes = learner.old_logprobs == "recompute" or (learner.old_logprobs == "auto" and self.device != "cpu")
        # what the cache holds where nobody knows: every seat at its longest
        seats_full = rollout.max_num_seqs * self.config.model.max_model_len
        return Workload(
            prompts_per_iteration=rollout.prompts_per_iteration,
            completions_per_prompt=rollout.completions_per_prompt,
            prompt_length=self.prompt_length,
            lengths=self.lengths,
            max_staleness=self.config.max_staleness if max_staleness is None else max_staleness,
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
            num_scoring_passes=int(recomputes) + int(self.keeps_reference),
            num_graders=self.config.graders.num_workers,
            trained_bytes=parameters.trained * DTYPE_BYTES[self.learner_dtype],
            held_bytes=parameters.held * DTYPE_BYTES[self.learner_dtype],
            published_bytes=parameters.published * DTYPE_BYTES[self.engine_dtype],
        )


def activation_bytes(shape: ModelShape, *, dtype: str, num_tokens: int, checkpointing: bool) -> float:
    """What a forward pass of so many tokens keeps for the backward pass, the output embedding aside.

    With checkpointing: each layer's input, and one layer's tensors while it is computed again.
    """
    # Norms compute in float32 and keep a float32 copy of their input where that is bfloat16: two elements more each.
    norm_copies = 0 if dtype == "float32" else 1
    attention = 3 * shape.query_width + 2 * shape.kv_width  # as learner/model/attention.py computes it
    layer = (6 + 2 * norm_copies) * shape.hidden + attention + 4 * shape.intermediate
    ends = (2 + norm_copies) * shape.hidden + 2 * shape.head_size  # the last norm, and the places' sines and cosines
    kept = layer + shape.layers * shape.hidden if checkpointing else layer * shape.layers
    return float(num_tokens * DTYPE_BYTES[dtype] * (kept + ends))
