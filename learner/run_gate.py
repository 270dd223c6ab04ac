"""The gate of a run, as the steps of a rank go by: fixed, or with temperatures that follow a target EUR.

In: the gate's section and, after each step, its metrics, which are equal on all ranks. Out: the gate in force, hence
equal too; its temperatures as metrics; a small file in the checkpoint where they follow a target.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from configs.gates import GateConfig, TemperedGateConfig
from gates import SoftGate
from gates.adaptive import EurTarget, TauController, TauState
from learner.gate_builder import build_gate

STATE_FILE = "gate.json"


class RunGate:
    """`gate` is in force for the next step."""

    def __init__(self, config: GateConfig, *, num_steps: int) -> None:
        """num_steps: optimizer steps of an iteration. Raises ValueError where a custom gate cannot be loaded."""
        self.gate = build_gate(config)
        self._controllers: dict[str, TauController] = {}  # by sign of the advantage; empty where the taus are fixed
        if isinstance(config, TemperedGateConfig) and config.adaptive.target_eur is not None:
            target = EurTarget(**config.adaptive.model_dump())
            taus = self._taus()
            self._controllers = {
                sign: TauController(target, tau=taus[f"tau_{sign}"], num_steps=num_steps) for sign in ("pos", "neg")
            }

    def metrics(self) -> dict[str, float]:
        """The temperatures in force by metric name; none for a gate without."""
        return {f"gate/{name}": tau for name, tau in self._taus().items()}

    def follow(self, metrics: Mapping[str, float]) -> None:
        """After a step that measured gate/eur_pos and gate/eur_neg (absent where no token has the sign)."""
        for sign, controller in self._controllers.items():
            controller.observe(metrics.get(f"gate/eur_{sign}"))
        self._apply()

    def save(self, folder: Path) -> None:
        """Between two iterations, into a checkpoint's folder."""
        if self._controllers:
            states = {sign: asdict(controller.state()) for sign, controller in self._controllers.items()}
            (folder / STATE_FILE).write_text(json.dumps(states, indent=1) + "\n", encoding="utf-8")

    def restore(self, folder: Path) -> None:
        """Goes on from what save() wrote."""
        if self._controllers:
            states = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
            for sign, controller in self._controllers.items():
                found = states[sign]
                controller.restore(TauState(tau=found["tau"], curvatures=tuple(found["curvatures"])))
            self._apply()

    def _taus(self) -> dict[str, float]:
        gate = self.gate
        return {"tau_pos": gate.tau_pos, "tau_neg": gate.tau_neg} if isinstance(gate, SoftGate) else {}

    def _apply(self) -> None:
        if self._controllers:
            assert isinstance(self.gate, SoftGate), self.gate
            self.gate = replace(self.gate, tau_pos=self._controllers["pos"].tau, tau_neg=self._controllers["neg"].tau)
