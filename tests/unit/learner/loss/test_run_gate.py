"""The gate of a run from step to step: fixed taus stay, adaptive ones move sign by sign and survive a checkpoint."""

from pathlib import Path

import pytest
import torch

from configs.gates import AdaptiveTauConfig, ClipGateConfig, GateConfig, PowerGateConfig, SoftGateConfig
from gates import SoftGate
from gates.audit import AuditTokens
from gates.loss import effective_update_ratio
from learner.loss.run_gate import RunGate, StepCurves

NUM_STEPS = 4
ADAPTIVE = SoftGateConfig(name="softsign", adaptive=AdaptiveTauConfig(target_eur=0.9))


def tokens_at(scale: float, *, seed: int, share_positive: float = 0.5) -> AuditTokens:
    generator = torch.Generator().manual_seed(seed)
    positive = torch.rand(200, generator=generator) < share_positive
    log_ratio = scale * torch.where(positive, 0.5, 2.0) * torch.randn(200, generator=generator)
    return AuditTokens(
        log_ratio=log_ratio,
        token_log_ratio=log_ratio,
        advantages=torch.where(positive, 1.0, -1.0),
        group_index=torch.arange(200) % 2,
        staleness=torch.zeros(200, dtype=torch.int64),
        sequence=torch.arange(200),
    )


def eur_metrics(gate: RunGate, tokens: AuditTokens) -> dict[str, float]:
    slope = gate.gate.slope(torch.exp(tokens.log_ratio), tokens.advantages > 0).double()
    found = {}
    for sign, mask in (("pos", tokens.advantages > 0), ("neg", tokens.advantages <= 0)):
        if mask.any():
            sums, counts = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
            sums.index_add_(0, tokens.group_index[mask], slope[mask])
            counts.index_add_(0, tokens.group_index[mask], torch.ones_like(slope[mask]))
            found[f"gate/eur_{sign}"] = effective_update_ratio(sums, counts)
    return found


def take_step(gate: RunGate, tokens: AuditTokens) -> dict[str, float]:
    metrics = eur_metrics(gate, tokens)
    gate.follow(metrics, gate.measure(tokens, num_groups=2))
    return metrics


def take_iterations(gate: RunGate, count: int, *, first_seed: int = 0) -> list[dict[str, float]]:
    """Metrics of the steps of the last iteration."""
    for iteration in range(count):
        steps = [
            take_step(gate, tokens_at(0.1 * step, seed=first_seed + NUM_STEPS * iteration + step))
            for step in range(NUM_STEPS)
        ]
    return steps


@pytest.mark.parametrize("config", [SoftGateConfig(name="erf"), ClipGateConfig(name="clip")])
def test_without_a_target_nothing_is_measured_moved_or_saved(config: GateConfig) -> None:
    gate = RunGate(config, num_steps=NUM_STEPS)
    before = gate.gate
    tokens = tokens_at(0.5, seed=0)
    assert gate.measure(tokens, num_groups=2) is None
    gate.follow(eur_metrics(gate, tokens), None)
    assert gate.gate == before
    assert gate.files() == {}


@pytest.mark.parametrize("config", [ADAPTIVE, PowerGateConfig(name="power", adaptive=ADAPTIVE.adaptive)])
def test_each_sign_comes_to_the_target_with_a_tau_of_its_own(config: GateConfig) -> None:
    gate = RunGate(config, num_steps=NUM_STEPS)
    steps = take_iterations(gate, 8)
    for sign in ("pos", "neg"):
        assert sum(step[f"gate/eur_{sign}"] for step in steps) / NUM_STEPS == pytest.approx(0.9, abs=0.015)
    assert isinstance(gate.gate, SoftGate)
    assert gate.metrics() == {"gate/tau_pos": gate.gate.tau_pos, "gate/tau_neg": gate.gate.tau_neg}
    assert gate.gate.tau_pos > 2.0 * gate.gate.tau_neg, "its ratios lie closer to 1"


def test_a_sign_without_tokens_keeps_its_tau() -> None:
    gate = RunGate(ADAPTIVE, num_steps=NUM_STEPS)
    before = gate.metrics()
    for seed in range(NUM_STEPS):
        take_step(gate, tokens_at(0.3, seed=seed, share_positive=0.0))
    after = gate.metrics()
    assert after["gate/tau_pos"] == before["gate/tau_pos"]
    assert after["gate/tau_neg"] != before["gate/tau_neg"]


def test_ranks_that_share_the_tokens_move_as_one_does() -> None:
    """What the ranks' all-reduce does, by hand."""
    alone, shared = RunGate(ADAPTIVE, num_steps=NUM_STEPS), RunGate(ADAPTIVE, num_steps=NUM_STEPS)
    for step in range(NUM_STEPS):
        tokens = tokens_at(0.1 * step, seed=step)
        metrics = take_step(alone, tokens)
        first, second = (shared.measure(part, num_groups=2) for part in split(tokens, 70))
        assert isinstance(first, StepCurves)
        assert isinstance(second, StepCurves)
        first.sums += second.sums
        shared.follow(metrics, first)
    assert shared.metrics() == pytest.approx(alone.metrics(), rel=1e-9)


def split(tokens: AuditTokens, place: int) -> list[AuditTokens]:
    names = ("log_ratio", "token_log_ratio", "advantages", "group_index", "staleness", "sequence")
    return [
        AuditTokens(**{name: getattr(tokens, name)[part] for name in names})
        for part in (slice(place), slice(place, None))
    ]


def test_a_restored_gate_goes_on_to_the_last_digit(tmp_path: Path) -> None:
    first, second = RunGate(ADAPTIVE, num_steps=NUM_STEPS), RunGate(ADAPTIVE, num_steps=NUM_STEPS)
    take_iterations(first, 3)
    for name, text in first.files().items():
        (tmp_path / name).write_text(text)
    second.restore(tmp_path)
    assert second.metrics() == first.metrics()
    for step in range(2 * NUM_STEPS):
        for gate in (first, second):
            take_step(gate, tokens_at(0.13 * (step % NUM_STEPS), seed=100 + step))
        assert second.metrics() == first.metrics()


def test_a_state_of_another_program_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gate.json").write_text('{"pos": {"tau": 3.0, "curvatures": [0.1]}, "neg": {"tau": 3.0}}')
    with pytest.raises(ValueError, match="resume with the version of the program that wrote it"):
        RunGate(ADAPTIVE, num_steps=NUM_STEPS).restore(tmp_path)
