"""What one device and the wires between devices can do, as a data sheet says, and what a run costs there.

In: the name of a preset beside this file, or a YAML file of one's own. Out: a frozen Hardware, or a HardwareError with
one line a mistake; and Costs: what the model needs, divided by what the device can do. Only what can be counted is in
them: requests, Python, kernel launches and grading cost nothing here, so short iterations are predicted too short.
"""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError

from configs.mistakes import mistakes_of
from configs.section import Section
from orchestration.plan.costs import Costs, EngineCosts, LearnerCosts, WireCosts, Workload
from orchestration.plan.scenario import DTYPE_BYTES, FLOAT32_BYTES, Scenario

PRESETS = Path(__file__).resolve().parent / "presets"
ADAMW_ARRAYS = 7  # float32 arrays that a step reads or writes: gradient; weight and two moments, each read and written


class HardwareError(ValueError):
    """A description of hardware that cannot be used."""


class Hardware(Section):
    """Peak figures of a device, and the shares of them that are reached. A share of 1 makes all times too short."""

    name: str = Field(min_length=1)
    source: str = Field(min_length=1)  # where the figures are from
    device: Literal["gpu", "cpu"] = "gpu"
    memory_bytes: float = Field(gt=0.0)  # of one device
    operations_per_s: float = Field(gt=0.0)  # of dense products in the dtype that is trained in
    memory_bytes_per_s: float = Field(gt=0.0)
    devices_per_node: int = Field(ge=1)
    node_bytes_per_s: float = Field(gt=0.0)  # of one device to the others of its node, in one direction
    network_bytes_per_s: float = Field(gt=0.0)  # of one device to other nodes, in one direction
    operations_share: float = Field(default=1.0, gt=0.0, le=1.0)  # reached in training and in reading prompts
    memory_share: float = Field(default=1.0, gt=0.0, le=1.0)  # reached in decoding and by the optimizer
    wire_share: float = Field(default=1.0, gt=0.0, le=1.0)  # reached by collectives

    @property
    def is_at_peak(self) -> bool:
        """Whether nobody has said what is reached: times are then what no machine beats, not what one does."""
        return self.operations_share == self.memory_share == self.wire_share == 1.0

    @property
    def wire(self) -> WireCosts:
        return WireCosts(
            byte_s=1.0 / (self.node_bytes_per_s * self.wire_share),
            network_byte_s=1.0 / (self.network_bytes_per_s * self.wire_share),
            devices_per_node=self.devices_per_node,
        )


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_hardware(name_or_path: str) -> Hardware:
    """A preset by name, or a YAML file with the same keys."""
    path = PRESETS / f"{name_or_path}.yaml" if name_or_path in preset_names() else Path(name_or_path)
    if not path.is_file():
        raise HardwareError(f"hardware={name_or_path}: neither a file nor one of {', '.join(preset_names())}")
    try:
        return Hardware.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise HardwareError(f"hardware={path}: not readable as YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        lines = [f"hardware={path}: {mistake.line}" for mistake in mistakes_of(error, root=Hardware)]
        raise HardwareError("\n".join(lines)) from error


def costs_from_hardware(hardware: Hardware, scenario: Scenario, workload: Workload) -> Costs:
    """Costs of the scenario's model with the workload's numbers of engines and ranks.

    Memory and arithmetic are not overlapped. A backward pass takes a forward pass's operations for gradients of what
    layers were given, and as many for those of weights that are trained.
    """
    shape = scenario.shape
    operations_per_s = hardware.operations_per_s * hardware.operations_share
    bytes_per_s = hardware.memory_bytes_per_s * hardware.memory_share
    engine_operations_per_s = operations_per_s * workload.workers_per_engine
    engine_bytes_per_s = bytes_per_s * workload.workers_per_engine
    engine_bytes = DTYPE_BYTES[scenario.engine_dtype]
    trained = scenario.parameters.trained
    forwards = 2 if scenario.config.learner.gradient_checkpointing else 1  # checkpointing runs the forward pass again
    passes = forwards + 1 + min(1.0, trained / shape.num_parameters)
    pair_passes = forwards + 2  # attention has no weights: both of its factors want a gradient
    optimizer_ranks = workload.num_ranks if workload.zero_stage >= 1 else 1
    return Costs(
        engine=EngineCosts(
            step_s=shape.multiplied_parameters * engine_bytes / engine_bytes_per_s,
            sequence_s=shape.token_operations / engine_operations_per_s,
            context_token_s=shape.kv_elements * engine_bytes / engine_bytes_per_s,
            prompt_token_s=shape.token_operations / engine_operations_per_s,
        ),
        learner=LearnerCosts(
            step_s=ADAMW_ARRAYS * FLOAT32_BYTES * trained / optimizer_ranks / bytes_per_s,
            token_s=passes * shape.token_operations / operations_per_s,
            pair_s=pair_passes * shape.pair_operations / 2 / operations_per_s,  # causal: half of the pairs
            scoring_share=1.0 / passes,
        ),
        wire=hardware.wire,
        publishes_by_tree=hardware.device == "cpu",
    )
