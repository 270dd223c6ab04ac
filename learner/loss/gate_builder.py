"""Builds the gate from its section of the configuration. Knows names and parameters, no formula."""

from configs.gates import ClipGateConfig, CustomGateConfig, GateConfig, Kernel, PowerGateConfig
from gates import Gate, get_gate
from gates.calibration import match_half_width
from gates.custom import load_gate
from gates.shapes import SHAPES


def build_gate(config: GateConfig) -> Gate:
    """The configured gate, its taus matched where asked. Raises ValueError where a custom gate cannot be loaded."""
    if isinstance(config, CustomGateConfig):
        return load_gate(config.factory, config.parameters)
    if isinstance(config, ClipGateConfig):
        return get_gate(config.name, epsilon_low=config.epsilon_low, epsilon_high=config.epsilon_high)
    power = {"p": config.p} if isinstance(config, PowerGateConfig) else {}
    gate = get_gate(config.name, tau_pos=config.tau_pos, tau_neg=config.tau_neg, **power)
    return match_half_width(gate, like=SHAPES[config.match_to]) if config.match == "half_width" else gate


def kernel_of(config: GateConfig) -> Kernel:
    """The implementation of the loss that is asked for; a custom gate has no such setting, hence auto."""
    return "auto" if isinstance(config, CustomGateConfig) else config.kernel
