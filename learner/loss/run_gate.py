"""The gate of a run from step to step: fixed, or with temperatures that follow a target EUR.

In: the gate's section and, after each step, the step's metrics, which are equal on all ranks. Out: the gate of the next
step, equal on all ranks too; its temperatures as metrics; a small file in the checkpoint where they follow a target.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from configs.gates import GateConfig, TemperedGateConfig
from gates import SoftGate
from gates.adaptive import EurTarget, TauController, TauState
from gates.audit import AuditTokens
from gates.eur_curve import SIGNS, EurCurves
from learner.loss.gate_builder import build_gate

STATE_FILE = "gate.json"
REMEDY = "resume with the version of the program that wrote it"


class StepCurves:
    """What the EUR of a step would have been at every tau of the target.

    `sums` is [S] float64, of one size on all ranks, to be added up over the ranks in place before deficits().
    """

    def __init__(self, curves: EurCurves, tokens: AuditTokens) -> None:
        self._curves = curves
        self.sums = curves.sums(
            log_ratio=tokens.log_ratio, positive=tokens.advantages > 0, group_index=tokens.group_index
        )

    def deficits(self) -> dict[str, tuple[float, ...]]:
        """Deficits 1 - EUR at the target's taus, by sign of the advantage; a sign without tokens is absent."""
        return self._curves.deficits(self.sums)


class RunGate:
    """The gate of a run; `gate` is the one that the next step uses."""

    def __init__(self, config: GateConfig, *, num_steps: int) -> None:
        """num_steps: optimizer steps of an iteration. Raises ValueError where a custom gate cannot be loaded."""
        self.gate = build_gate(config)
        self._target: EurTarget | None = None  # None: the taus are fixed
        self._controllers: dict[str, TauController] = {}  # by sign of the advantage; empty where the taus are fixed
        if isinstance(config, TemperedGateConfig) and config.adaptive.target_eur is not None:
            self._target = target = EurTarget(**config.adaptive.model_dump())
            taus = self._taus()
            self._controllers = {
                sign: TauController(target, tau=taus[f"tau_{sign}"], num_steps=num_steps) for sign in SIGNS
            }

    @property
    def is_adaptive(self) -> bool:
        """Whether the temperatures follow a target."""
        return self._target is not None

    def metrics(self) -> dict[str, float]:
        """The temperatures of the next step by metric name; empty for a gate that has none."""
        return {f"gate/{name}": tau for name, tau in self._taus().items()}

    def measure(self, tokens: AuditTokens, *, num_groups: int) -> StepCurves | None:
        """Curves for follow() from this rank's tokens of a step; None where the taus are fixed."""
        if self._target is None:
            return None
        assert isinstance(self.gate, SoftGate), self.gate
        return StepCurves(EurCurves(shape=self.gate.shape, taus=self._target.taus, num_groups=num_groups), tokens)

    def follow(self, metrics: Mapping[str, float], curves: StepCurves | None) -> None:
        """Moves the temperatures after a step with these metrics; curves: measure()'s, summed over the ranks."""
        if curves is None:
            return
        deficits = curves.deficits()
        for sign, controller in self._controllers.items():
            controller.observe(metrics.get(f"gate/eur_{sign}"), deficits.get(sign))
        self._apply()

    def files(self) -> dict[str, str]:
        """The state between two iterations as a file of a checkpoint, by its name; empty where the taus are fixed."""
        if not self._controllers:
            return {}
        states = {sign: asdict(controller.state()) for sign, controller in self._controllers.items()}
        return {STATE_FILE: json.dumps(states, indent=1) + "\n"}

    def restore(self, folder: Path) -> None:
        """Continues from a checkpoint's folder. ValueError where another version of the program wrote it."""
        if self._controllers:
            states = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
            for sign, controller in self._controllers.items():
                try:
                    state = TauState(
                        tau=states[sign]["tau"], curves=tuple(tuple(row) for row in states[sign]["curves"])
                    )
                except KeyError as error:
                    raise ValueError(f"{folder / STATE_FILE}: no {error} of {sign}; {REMEDY}") from error
                controller.restore(state)
            self._apply()

    def _taus(self) -> dict[str, float]:
        gate = self.gate
        return {"tau_pos": gate.tau_pos, "tau_neg": gate.tau_neg} if isinstance(gate, SoftGate) else {}

    def _apply(self) -> None:
        if self._controllers:
            assert isinstance(self.gate, SoftGate), self.gate
            self.gate = replace(self.gate, tau_pos=self._controllers["pos"].tau, tau_neg=self._controllers["neg"].tau)
