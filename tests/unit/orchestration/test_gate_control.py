"""The taus of a run: in force, adapted sign by sign, restored."""

from types import SimpleNamespace
from typing import Any

import pytest

from configs.gates import AdaptiveTauConfig, ClipGateConfig, GateConfig, SoftGateConfig
from learner.gate_builder import build_gate
from orchestration.gate_control import GateControl

ADAPTIVE = SoftGateConfig(name="erf", tau_pos=8.0, tau_neg=9.0, adaptive=AdaptiveTauConfig(target_eur=0.9))


def control_of(config: GateConfig) -> tuple[GateControl, list[Any]]:
    calls: list[Any] = []
    learner: Any = SimpleNamespace(call=lambda *arguments: calls.append(arguments))
    return GateControl(build_gate(config), config, learner), calls


def test_each_tau_follows_the_eur_of_its_sign_on_every_rank() -> None:
    control, calls = control_of(ADAPTIVE)
    assert control.metrics() == {"gate/tau_pos": 8.0, "gate/tau_neg": 9.0}
    taus = control.adapt({"gate/eur": 0.9, "gate/eur_pos": 0.95, "gate/eur_neg": 0.85})
    assert taus is not None
    assert taus.pos > 8.0
    assert taus.neg < 9.0
    assert calls == [("set_taus", taus.pos, taus.neg)]
    assert control.metrics() == {"gate/tau_pos": taus.pos, "gate/tau_neg": taus.neg}


def test_a_sign_without_tokens_keeps_its_tau() -> None:
    control, _ = control_of(ADAPTIVE)
    taus = control.adapt({"gate/eur": 0.95, "gate/eur_neg": 0.95})
    assert taus is not None
    assert taus.pos == 8.0
    assert taus.neg > 9.0


def test_a_restored_control_goes_on_where_the_other_was() -> None:
    measured = {"gate/eur_pos": 0.97, "gate/eur_neg": 0.8}
    undisturbed, _ = control_of(ADAPTIVE)
    saved = undisturbed.adapt(measured)
    resumed, calls = control_of(ADAPTIVE)
    resumed.restore(saved)
    assert saved is not None
    assert calls == [("set_taus", saved.pos, saved.neg)]
    assert resumed.adapt(measured) == undisturbed.adapt(measured)


@pytest.mark.parametrize("config", [SoftGateConfig(name="erf"), ClipGateConfig(name="clip")])
def test_without_a_target_nothing_moves(config: GateConfig) -> None:
    control, calls = control_of(config)
    before = control.metrics()
    assert control.adapt({"gate/eur_pos": 0.5, "gate/eur_neg": 0.5}) is None
    control.restore(None)
    assert control.metrics() == before
    assert calls == []
    assert bool(before) == (config.name == "erf")
