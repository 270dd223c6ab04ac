"""The gate's temperatures over a run: those in force, and how they follow the target EUR.

In: what the iteration's steps measured. Out: the taus of the next iteration, on every learner rank. Without a target
nothing moves, and a gate without taus has none here.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from configs.gates import GateConfig, TemperedGateConfig
from gates import Gate, SoftGate
from gates.adaptive import EurController
from learner.group import LearnerGroup
from orchestration.checkpoint import Taus


class GateControl:
    """What the loop knows of the gate."""

    def __init__(self, gate: Gate, config: GateConfig, learner: LearnerGroup) -> None:
        """gate: as every rank has built it from config."""
        self._gate = gate
        self._learner = learner
        self._controller: EurController | None = None
        if isinstance(config, TemperedGateConfig) and config.adaptive.target_eur is not None:
            settings: dict[str, Any] = config.adaptive.model_dump()
            self._controller = EurController(**settings)

    def metrics(self) -> dict[str, float]:
        """The temperatures in force, by their names in metrics.jsonl."""
        if not isinstance(self._gate, SoftGate):
            return {}
        return {"gate/tau_pos": self._gate.tau_pos, "gate/tau_neg": self._gate.tau_neg}

    def adapt(self, measured: Mapping[str, float]) -> Taus | None:
        """Moves both taus by the EUR of their tokens; what a checkpoint must keep, None where nothing adapts.

        measured: the iteration's gate/eur_pos and gate/eur_neg. A sign without tokens leaves its tau where it is.
        """
        if self._controller is None:
            return None
        assert isinstance(self._gate, SoftGate), self._gate
        taus = {
            sign: self._controller.next_tau(tau, eur=measured[f"gate/eur_{sign}"])
            for sign, tau in (("pos", self._gate.tau_pos), ("neg", self._gate.tau_neg))
            if f"gate/eur_{sign}" in measured
        }
        self._use(Taus(pos=taus.get("pos", self._gate.tau_pos), neg=taus.get("neg", self._gate.tau_neg)))
        return Taus(pos=self._gate.tau_pos, neg=self._gate.tau_neg)

    def restore(self, taus: Taus | None) -> None:
        """Goes on from a checkpoint's taus."""
        if taus is not None:
            self._use(taus)

    def _use(self, taus: Taus) -> None:
        assert isinstance(self._gate, SoftGate), self._gate
        self._gate = replace(self._gate, tau_pos=taus.pos, tau_neg=taus.neg)
        self._learner.call("set_taus", taus.pos, taus.neg)
