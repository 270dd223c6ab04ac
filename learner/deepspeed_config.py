"""DeepSpeed's configuration for one rank, as the plain dict that DeepSpeed takes.

In: the LearnerSpec and two sizes of the model. Out: a dict. Does not import DeepSpeed.
"""

from typing import Any

from learner.spec import LearnerSpec

MAX_BUCKET_ELEMENTS = 50_000_000  # elements of one gradient reduction; DeepSpeed's default of 500 M reserves 2 GB
WHOLE_VECTORS = 10  # hidden sizes up to which a parameter (norm, bias) stays whole: gathering it would cost more


def deepspeed_config(spec: LearnerSpec, *, num_parameters: int, hidden_size: int) -> dict[str, Any]:
    """Configuration of the engine that trains.

    DeepSpeed's own batch sizes are 1, because the worker itself decides when accumulation ends.
    """
    stage = spec.learner.zero_stage
    bfloat16 = spec.dtype_name == "bfloat16"
    bucket = min(MAX_BUCKET_ELEMENTS, num_parameters)
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": spec.learner.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": bfloat16, "check_grad_overflow": True},
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": spec.device == "cuda",
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
    }
    if stage == 3:
        config["zero_optimization"]["stage3_param_persistence_threshold"] = WHOLE_VECTORS * hidden_size
    if bfloat16:
        # summed in bfloat16, a gradient would depend on the number of micro-batches; LearnerSpec refuses stages 0 and 1
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def reference_config(spec: LearnerSpec, *, hidden_size: int) -> dict[str, Any]:
    """Configuration of a frozen model under ZeRO-3: sharded like the policy, without an optimizer."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": spec.dtype_name == "bfloat16"},
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": WHOLE_VECTORS * hidden_size},
    }
