"""What a person must know of the configured gate before and at the start of a run.

In: the gate's section. Out: one line for each fact, or a ConfigError for a custom gate that breaks a condition of the
paper's section 4. Loads torch; where nothing can be wrong nobody needs to call it before the run is placed.
"""

from collections.abc import Sequence

import torch

from configs.gates import CustomGateConfig, GateConfig, TemperedGateConfig
from configs.loading import ConfigError
from configs.schema import RunConfig
from gates import SoftGate, check_admissible
from gates.kernels import has_kernel
from learner.loss.gate_builder import build_gate, kernel_of
from orchestration.placement import Device


def refuse_inadmissible(configs: Sequence[RunConfig]) -> None:
    """ConfigError with one line for each condition that a custom gate breaks, unless gate.allow_inadmissible is set."""
    lines: list[str] = []
    for config in configs:
        gate = config.gate
        if isinstance(gate, CustomGateConfig):
            try:
                violations = check_admissible(build_gate(gate)).violations
            except ValueError as error:
                raise ConfigError(str(error).splitlines()) from error
            if not gate.allow_inadmissible:
                rule = "mend it, or set gate.allow_inadmissible=true to train with it anyway"
                lines += [f"gate.factory={gate.factory}: {violation}; {rule}" for violation in violations]
    if lines:
        raise ConfigError(lines)


def gate_notices(config: GateConfig, *, device: Device) -> list[str]:
    """Lines for the log: matched temperatures, conditions that a custom gate breaks with leave, a missing kernel."""
    gate, lines = build_gate(config), []
    if isinstance(config, CustomGateConfig) and config.allow_inadmissible:
        found = check_admissible(gate).violations
        lines += [f"gate.allow_inadmissible=true: {gate.name} breaks condition {violation}" for violation in found]
    if isinstance(config, TemperedGateConfig) and isinstance(gate, SoftGate) and config.match != "none":
        lines.append(
            f"gate {gate.name} has the {config.match} of {config.match_to} at tau_pos={config.tau_pos:g}, "
            f"tau_neg={config.tau_neg:g}: its own are tau_pos={gate.tau_pos:.6g}, tau_neg={gate.tau_neg:.6g}"
        )
    if kernel_of(config) == "auto" and not has_kernel(gate, torch.device("cpu" if device == "cpu" else "cuda")):
        lines.append(f"gate {gate.name} has no fused kernel on a {device}: its loss takes the reference path")
    return lines
