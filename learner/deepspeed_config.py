"""DeepSpeed's configurations for one rank, as the plain dicts that DeepSpeed asks for.

In: the learner's specification and two sizes of the model. Out: a dict. Imports nothing of DeepSpeed.
"""

from typing import Any

from learner.spec import LearnerSpec

MAX_BUCKET_ELEMENTS = 50_000_000  # of one gradient reduction; DeepSpeed's own 500 M would reserve 2 GB


def deepspeed_config(spec: LearnerSpec, *, num_parameters: int, hidden_size: int) -> dict[str, Any]:
    """Accumulation is ours (the worker sets the boundary itself), hence 1 for DeepSpeed's batch numbers."""
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
        config["zero_optimization"]["stage3_param_persistence_threshold"] = _kept_whole_below(hidden_size)
    if bfloat16:
        # summed in bfloat16, a gradient would depend on the number of micro-batches; LearnerSpec refuses stages 0 and 1
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def reference_config(spec: LearnerSpec, *, hidden_size: int) -> dict[str, Any]:
    """For a frozen model under ZeRO-3: sharded like the policy, without an optimizer."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": spec.dtype_name == "bfloat16"},
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": _kept_whole_below(hidden_size)},
    }


def _kept_whole_below(hidden_size: int) -> int:
    """Elements below which parameters (norms, biases) stay whole on every rank: gathering costs more than holding."""
    return 10 * hidden_size
