"""Notices about the configured gate, and the refusal of an inadmissible one.

In: the gate's section. Out: one line for each fact that a person must know, or a ConfigError for a custom gate that
violates a condition of the paper's section 4. Loads torch; only a custom gate needs the check before the run is placed.
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
    """Raises ConfigError with one line for each condition that a custom gate violates, unless that is allowed."""
    lines: list[str] = []
    for config in configs:
        gate = config.gate
        if isinstance(gate, CustomGateConfig):
            try:
                violations = check_admissible(build_gate(gate)).violations
            except ValueError as error:
                raise ConfigError(str(error).splitlines()) from error
            if not gate.allow_inadmissible:
                rule = "correct it, or set gate.allow_inadmissible=true to train with it anyway"
                lines += [f"gate.factory={gate.factory}: {violation}; {rule}" for violation in violations]
    if lines:
        raise ConfigError(lines)


def gate_notices(config: GateConfig, *, device: Device) -> list[str]:
    """Lines for the log: matched temperatures, violated conditions of an allowed custom gate, a missing kernel."""
    gate, lines = build_gate(config), []
    if isinstance(config, CustomGateConfig) and config.allow_inadmissible:
        found = check_admissible(gate).violations
        lines += [f"gate.allow_inadmissible=true: {gate.name} violates condition {violation}" for violation in found]
    if isinstance(config, TemperedGateConfig) and isinstance(gate, SoftGate) and config.match != "none":
        lines.append(
            f"gate {gate.name} has the {config.match} of {config.match_to} at tau_pos={config.tau_pos:g}, "
            f"tau_neg={config.tau_neg:g}: its own are tau_pos={gate.tau_pos:.6g}, tau_neg={gate.tau_neg:.6g}"
        )
    if kernel_of(config) == "auto" and not has_kernel(gate, torch.device("cpu" if device == "cpu" else "cuda")):
        lines.append(
            f"gate {gate.name} has no fused kernel on a {device}: its loss is computed by the reference formulas"
        )
    return lines
