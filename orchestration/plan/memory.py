"""Bytes that a learner rank and an engine need, by what they are for.

In: a ModelShape and numbers of the configuration. Out: dataclasses of bytes. What is counted is what tensors hold; what
an allocator, a driver or a framework keeps beside them is not, and is left to the reader as room.
"""

from dataclasses import dataclass, fields

from configs.schema import LearnerConfig
from orchestration.plan.model_shape import ModelShape
from orchestration.plan.trained import trained_parameters

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FLOAT32_BYTES = 4
MAX_BUCKET_ELEMENTS = 50_000_000  # as in learner/deepspeed_config.py
TILE_COPIES = (
    2.5  # float32 arrays of the size of a logit tile at a time: logits, their exponentials, part of a gradient
)


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
    kv_cache: float
    kv_tokens: int  # of the whole engine
    longest_sequences: int  # that fit at their longest

    @property
    def total(self) -> float:
        return self.weights + self.kv_cache


def learner_memory(
    shape: ModelShape,
    learner: LearnerConfig,
    *,
    dtype: str,
    num_ranks: int,
    max_logits: int,
    keeps_reference: bool,
) -> LearnerMemory:
    """ZeRO stage 1 shares out the optimizer, 2 gradients too, 3 weights too; a share is a rank's 1 / num_ranks.

    dtype: of the trained weights. Stages 0 and 1 add up gradients in it, 2 and 3 in float32.
    """
    parameters = trained_parameters(shape, learner.lora)
    stage, count, size = learner.zero_stage, float(parameters.trained), DTYPE_BYTES[dtype]
    share = 1.0 / num_ranks
    weights = parameters.held * size * (share if stage == 3 else 1.0)
    gradients = count * (FLOAT32_BYTES * share if stage >= 2 else size)
    # ZeRO's optimizers step on float32 copies, also of weights that are float32 themselves
    copies = 1 if stage >= 1 else 0
    optimizer = count * FLOAT32_BYTES * (2 + copies) * (share if stage >= 1 else 1.0)
    bucket = min(MAX_BUCKET_ELEMENTS, count) * size
    return LearnerMemory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        reference=weights if keeps_reference and not learner.lora.is_on else 0.0,
        buckets=0.0 if stage == 0 else 2.0 * bucket,
        activations=activation_bytes(
            shape,
            dtype=dtype,
            num_tokens=learner.max_tokens_per_micro_batch,
            checkpointing=learner.gradient_checkpointing,
        ),
        logits=TILE_COPIES * FLOAT32_BYTES * min(max_logits, learner.max_tokens_per_micro_batch * shape.vocabulary),
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


def engine_memory(
    shape: ModelShape, *, dtype: str, workers: int, cache_bytes: float | None, worker_bytes: float, max_model_len: int
) -> EngineMemory:
    """workers: of tensor parallelism. cache_bytes: of the engine's key/value cache where the configuration says it;
    else what worker_bytes, all that a worker may use, leaves beside the weights. May be negative: it does not fit."""
    weights = shape.num_parameters * DTYPE_BYTES[dtype] / workers
    cache = worker_bytes - weights if cache_bytes is None else cache_bytes / workers
    kv_tokens = int(cache * workers // (shape.kv_elements * DTYPE_BYTES[dtype]))
    return EngineMemory(
        weights=weights, kv_cache=cache, kv_tokens=kv_tokens, longest_sequences=kv_tokens // max_model_len
    )
