"""What one device and the wires between devices can do, as someone has published or measured it.

In: the name of a preset beside this file, or a YAML file of one's own. Out: a frozen Hardware, or a HardwareError with
one line a mistake. Every description names its source. Knows nothing of models.
"""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError

from configs.mistakes import mistakes_of
from configs.section import Section

PRESETS = Path(__file__).resolve().parent / "presets"


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

    def wire_bytes_per_s(self, num_devices: int) -> float:
        """Reached by one device where so many take part."""
        within = num_devices <= self.devices_per_node
        return (self.node_bytes_per_s if within else self.network_bytes_per_s) * self.wire_share


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_hardware(name_or_path: str) -> Hardware:
    """A preset by name, or a YAML file with the same keys."""
    is_preset = name_or_path in preset_names()
    path = PRESETS / f"{name_or_path}.yaml" if is_preset else Path(name_or_path)
    if not path.is_file():
        known = ", ".join(preset_names())
        raise HardwareError(f"hardware={name_or_path}: neither a file nor one of {known}")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise HardwareError(f"hardware={path}: not readable as YAML: {' '.join(str(error).split())}") from error
    try:
        return Hardware.model_validate(tree)
    except ValidationError as error:
        lines = [f"hardware={path}: {mistake.line}" for mistake in mistakes_of(error, root=Hardware)]
        raise HardwareError("\n".join(lines)) from error
