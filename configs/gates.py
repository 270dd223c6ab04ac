"""The sections that choose a gate: one variant for each kind of gate, chosen by `name`.

In: a plain nested dict. Out: frozen sections. Knows the names and bounds of settings, and nothing of torch or of what a
gate computes (gates/). learner/loss/gate_builder.py turns a section into a gate.
"""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from configs.section import Section

Kernel = Literal["auto", "reference", "fused"]  # auto: fused where the gate and the device have a kernel


SoftGateName = Literal["sigmoid", "erf", "arctan", "softsign"]


class AdaptiveTauConfig(Section):
    """Adaptive temperature: changes tau_pos and tau_neg to hold the EUR at target_eur (gates/adaptive.py).

    Each tau follows the EUR of the tokens of its own sign.
    """

    target_eur: float | None = Field(default=None, gt=0.0, lt=1.0)  # EUR to hold; null: tau stays as configured
    smoothing: float = Field(default=0.3, gt=0.0, le=1.0)  # weight of the newest iteration in the remembered curves
    max_factor: float = Field(default=3.0, gt=1.0)  # largest factor by which tau grows or shrinks in one step
    tau_min: float = Field(default=0.1, gt=0.0)
    tau_max: float = Field(default=1000.0, gt=0.0)

    def mistakes(self) -> Iterator[str]:
        if self.tau_min > self.tau_max:
            yield f"gate.adaptive.tau_min={self.tau_min:g}: must be at most gate.adaptive.tau_max={self.tau_max:g}"


class TemperedGateConfig(Section):
    """Settings of every smooth gate: tau_pos where the advantage is > 0, tau_neg elsewhere (paper eq. 3)."""

    tau_pos: float = Field(default=10.0, gt=0.0)
    tau_neg: float = Field(default=12.0, gt=0.0)
    # half_width: tau_pos and tau_neg are those of the gate match_to, and this gate gets the taus of equal half-width
    match: Literal["none", "half_width"] = "none"
    match_to: SoftGateName = "softsign"
    adaptive: AdaptiveTauConfig = AdaptiveTauConfig()
    kernel: Kernel = "auto"

    def mistakes(self) -> Iterator[str]:
        bounds = self.adaptive
        if bounds.target_eur is None or self.match != "none":
            return
        for name, tau in (("tau_pos", self.tau_pos), ("tau_neg", self.tau_neg)):
            if not bounds.tau_min <= tau <= bounds.tau_max:
                yield (
                    f"gate.{name}={tau:g}: must lie between gate.adaptive.tau_min={bounds.tau_min:g} and "
                    f"gate.adaptive.tau_max={bounds.tau_max:g}, the bounds of its adaptation"
                )


class SoftGateConfig(TemperedGateConfig):
    """A smooth gate of the paper."""

    name: SoftGateName


class PowerGateConfig(TemperedGateConfig):
    """A gate of the power family, with slope (1 + tau^2 (x - 1)^2)^-p: p = 1 is arctan, p = 3/2 softsign."""

    name: Literal["power"]
    p: float = Field(default=2.0, gt=0.5, le=50.0)


class ClipGateConfig(Section):
    """GRPO's clip: the ratio is cut at 1 - epsilon_low and 1 + epsilon_high."""

    name: Literal["clip"]
    epsilon_low: float = Field(default=0.2, gt=0.0, lt=1.0)
    epsilon_high: float = Field(default=0.2, gt=0.0)
    kernel: Kernel = "auto"


class CustomGateConfig(Section):
    """A gate of the user's own, which factory(**parameters) returns (docs/custom_gates.md)."""

    name: Literal["custom"]
    factory: str = Field(min_length=1)  # import path, package.module:function
    parameters: dict[str, float] = Field(default={})
    allow_inadmissible: bool = False  # true: train although a condition of the paper's section 4 does not hold


GateConfig = Annotated[
    SoftGateConfig | PowerGateConfig | ClipGateConfig | CustomGateConfig, Field(discriminator="name")
]
