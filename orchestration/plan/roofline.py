"""Costs counted from a data sheet: what the model needs, divided by what the device can do.

In: a ModelShape, Hardware, dtypes. Out: Costs. Only what can be counted is in them: requests, Python, kernel launches
and grading cost nothing here, so short iterations are predicted too short. Calibrate for those.
"""

from orchestration.plan.costs import Costs, EngineCosts, LearnerCosts, PublishCosts, WireCosts
from orchestration.plan.hardware import Hardware
from orchestration.plan.memory import DTYPE_BYTES, FLOAT32_BYTES
from orchestration.plan.model_shape import ModelShape

ADAMW_ARRAYS = 7  # float32 arrays that a step reads or writes: gradient; weight and two moments, each read and written
# A backward pass takes a forward pass's operations for gradients of what layers were given, and as many for those of
# weights that are trained.


def costs_from_hardware(
    shape: ModelShape,
    hardware: Hardware,
    *,
    engine_dtype: str,
    learner_dtype: str,
    workers_per_engine: int,
    optimizer_ranks: int,
    trained: int,
    checkpointing: bool,
) -> Costs:
    """optimizer_ranks: how many share the optimizer's arrays out. trained: parameters with a gradient.

    Memory and arithmetic are not overlapped.
    """
    operations_per_s = hardware.operations_per_s * hardware.operations_share
    bytes_per_s = hardware.memory_bytes_per_s * hardware.memory_share
    engine_operations_per_s = operations_per_s * workers_per_engine
    engine_bytes_per_s = bytes_per_s * workers_per_engine
    forwards = 2 if checkpointing else 1  # checkpointing runs the forward pass again
    weight_gradients = min(1.0, trained / shape.num_parameters)
    passes = forwards + 1 + weight_gradients
    pair_passes = forwards + 2  # attention has no weights: both of its factors want a gradient
    return Costs(
        engine=EngineCosts(
            step_s=shape.multiplied_parameters * DTYPE_BYTES[engine_dtype] / engine_bytes_per_s,
            sequence_s=shape.token_operations / engine_operations_per_s,
            context_token_s=shape.kv_elements * DTYPE_BYTES[engine_dtype] / engine_bytes_per_s,
            prompt_token_s=shape.token_operations / engine_operations_per_s,
            group_s=0.0,
            burst_s=0.0,
        ),
        learner=LearnerCosts(
            load_s=0.0,
            sample_s=0.0,
            step_s=ADAMW_ARRAYS * FLOAT32_BYTES * trained / optimizer_ranks / bytes_per_s,
            row_s=0.0,
            sequence_s=0.0,
            token_s=passes * shape.token_operations / operations_per_s,
            pair_s=pair_passes * shape.pair_operations / 2 / operations_per_s,  # causal: half of the pairs
            scoring_share=1.0 / passes,
        ),
        wire=WireCosts(
            byte_s=1.0 / (hardware.node_bytes_per_s * hardware.wire_share),
            network_byte_s=1.0 / (hardware.network_bytes_per_s * hardware.wire_share),
            devices_per_node=hardware.devices_per_node,
        ),
        publish=PublishCosts(fixed_s=0.0, by_tree=hardware.device == "cpu"),
        grade_s=0.0,
        iteration_s=0.0,
        completion_s=0.0,
        rates=(),
    )
