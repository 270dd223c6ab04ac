"""The audit against its definitions in numpy over all tokens; sums of ranks; the run's own gate with its parameters."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from gates import GATES, Gate, SoftGate, get_gate
from gates.audit import Audit, AuditTokens, audited_gates
from gates.custom import NamedGate, ValueGate
from gates.shapes import SHAPES

NUM_GROUPS, NUM_STALENESS, NUM_SEQUENCES, NUM_TOKENS = 5, 3, 40, 600
SOFTSIGN = get_gate("softsign", tau_pos=8.0, tau_neg=15.0)


def make_tokens(*, seed: int = 0, num_staleness: int = NUM_STALENESS, positive: bool | None = None) -> AuditTokens:
    """Tokens of sequences of several groups and stalenesses, each with its own drift and advantage."""
    rng = np.random.default_rng(seed)
    sequence = np.sort(rng.integers(NUM_SEQUENCES, size=NUM_TOKENS))
    drift = rng.normal(scale=0.1, size=NUM_SEQUENCES)
    advantages = rng.normal(size=NUM_SEQUENCES) * (rng.random(NUM_SEQUENCES) > 0.1)
    if positive is not None:
        advantages = np.abs(advantages) * (1.0 if positive else -1.0)
    log_ratio = torch.tensor(drift[sequence] + rng.normal(scale=0.15, size=NUM_TOKENS))
    return AuditTokens(
        log_ratio=log_ratio,
        token_log_ratio=1.5 * log_ratio,
        advantages=torch.tensor(advantages[sequence]),
        group_index=torch.tensor(sequence % (NUM_GROUPS - 1)),  # the last group has no tokens
        staleness=torch.tensor(sequence % num_staleness),
        sequence=torch.tensor(sequence + 1000 * seed),
    )


def column(tokens: AuditTokens, name: str) -> np.ndarray:
    return getattr(tokens, name).numpy()


def direct(gate: Gate, clip: Gate, tokens: AuditTokens, mask: np.ndarray) -> dict[str, float]:
    """Metrics of the tokens under the mask, by their definitions."""
    positive = tokens.advantages > 0
    ratio = torch.exp(tokens.log_ratio)
    slope, clip_slope = (g.slope(ratio, positive).numpy()[mask] for g in (gate, clip))
    weight = slope * ratio.numpy()[mask]
    advantages, group = column(tokens, "advantages")[mask], column(tokens, "group_index")[mask]
    gradient, clip_gradient = weight * advantages, clip_slope * ratio.numpy()[mask] * advantages
    return {
        "eur": float(np.mean([slope[group == g].mean() for g in np.unique(group)])),
        "ess": weight.sum() ** 2 / (len(weight) * (weight**2).sum()),
        "damped_share": float((slope < 0.5).mean()),
        "clip_cosine": gradient @ clip_gradient / np.linalg.norm(gradient) / np.linalg.norm(clip_gradient),
    }


def audit_of(gate: Gate, *, num_staleness: int = NUM_STALENESS) -> Audit:
    return Audit(gates=audited_gates(gate), num_groups=NUM_GROUPS, num_staleness=num_staleness)


@pytest.mark.parametrize("name", GATES)
def test_equals_the_definitions_by_sign_and_by_staleness(name: str) -> None:
    audit, tokens = audit_of(SOFTSIGN), make_tokens()
    found = audit.summarize(audit.sums(tokens))
    gate, clip = audit.gates[name], audit.gates["clip"]
    advantages, staleness = column(tokens, "advantages"), column(tokens, "staleness")
    masks = {"": np.ones(NUM_TOKENS, dtype=bool), "_pos": advantages > 0, "_neg": advantages <= 0}
    for suffix, mask in masks.items():
        expected = direct(gate, clip, tokens, mask)
        assert {key: found[f"audit/{name}/{key}{suffix}"] for key in expected} == pytest.approx(expected, rel=1e-9)
    for age in range(NUM_STALENESS):
        mask = staleness == age
        expected = direct(gate, clip, tokens, mask)
        ratio = torch.exp(tokens.log_ratio)
        expected["eur"] = float(gate.slope(ratio, tokens.advantages > 0).numpy()[mask].mean())  # over tokens here
        keys = {key: found[f"audit/{name}/{key}_staleness_{age}"] for key in expected}
        assert keys == pytest.approx(expected, rel=1e-9)


def test_clip_agrees_with_itself() -> None:
    audit = audit_of(SOFTSIGN)
    found = audit.summarize(audit.sums(make_tokens()))
    assert found["audit/clip/clip_cosine"] == pytest.approx(1.0)
    assert found["audit/erf/clip_cosine"] < 0.999


def test_spread_within_and_between_sequences() -> None:
    audit, tokens = audit_of(SOFTSIGN), make_tokens()
    found = audit.summarize(audit.sums(tokens))
    log_ratio, sequence = column(tokens, "token_log_ratio"), column(tokens, "sequence")
    means = np.array([log_ratio[sequence == place].mean() for place in sequence])
    assert found["ratio/log_std_within"] == pytest.approx(np.sqrt(((log_ratio - means) ** 2).mean()), rel=1e-9)
    assert found["ratio/log_std_between"] == pytest.approx(means.std(), rel=1e-9)


def test_ranks_add_up() -> None:
    audit, ranks = audit_of(SOFTSIGN), [make_tokens(seed=seed) for seed in range(3)]
    together = AuditTokens(
        **{field.name: torch.cat([getattr(rank, field.name) for rank in ranks]) for field in fields(AuditTokens)}
    )
    merged = sum((audit.sums(rank) for rank in ranks), torch.zeros(()))
    assert audit.summarize(merged) == pytest.approx(audit.summarize(audit.sums(together)), rel=1e-9)


def test_what_does_not_apply_is_absent() -> None:
    audit = audit_of(SOFTSIGN, num_staleness=1)
    tokens = make_tokens(num_staleness=1, positive=True)
    tokens.advantages.clamp_(min=0.5)
    found = audit.summarize(audit.sums(tokens))
    assert found["audit/erf/eur"] == found["audit/erf/eur_pos"]
    assert not any("_neg" in name or "_staleness" in name for name in found)
    nothing = AuditTokens(**{field.name: getattr(tokens, field.name)[:0] for field in fields(AuditTokens)})
    assert audit.summarize(audit.sums(nothing)) == {}


def test_without_advantages_there_is_no_gradient_to_compare() -> None:
    audit, tokens = audit_of(SOFTSIGN), make_tokens()
    tokens.advantages.zero_()
    found = audit.summarize(audit.sums(tokens))
    assert "audit/erf/eur" in found
    assert not any("clip_cosine" in name for name in found)


def test_gates_have_the_taus_in_force_and_the_own_gate_its_own_parameters() -> None:
    assert tuple(audited_gates(SOFTSIGN)) == GATES
    assert audited_gates(SOFTSIGN)["erf"] == get_gate("erf", tau_pos=8.0, tau_neg=15.0)
    assert audited_gates(SOFTSIGN)["clip"] == get_gate("clip", epsilon_low=0.2, epsilon_high=0.2)
    own = get_gate("power", tau_pos=3.0, tau_neg=4.0, p=0.7)
    assert audited_gates(own)["power"] == own
    dapo = get_gate("clip", epsilon_low=0.2, epsilon_high=0.28)
    assert audited_gates(dapo)["clip"] == dapo
    assert audited_gates(dapo)["sigmoid"] == get_gate("sigmoid", tau_pos=10.0, tau_neg=12.0)


@pytest.mark.parametrize("name", ["softsign", "MyOwn"])
def test_a_custom_shape_lends_its_taus_and_is_not_audited(name: str) -> None:
    audited = audited_gates(SoftGate(shape=replace(SHAPES["erf"], name=name), tau_pos=3.0, tau_neg=4.0))
    assert set(audited) == set(GATES)
    assert audited["softsign"] == get_gate("softsign", tau_pos=3.0, tau_neg=4.0)


@pytest.mark.parametrize("kind", [NamedGate, ValueGate])
def test_a_custom_gate_does_not_stand_in_for_the_built_in_one_of_its_name(kind: type[NamedGate | ValueGate]) -> None:
    custom = kind(gate=get_gate("erf", tau_pos=3.0, tau_neg=4.0), name="softsign")
    assert audited_gates(custom)["softsign"] == get_gate("softsign", tau_pos=10.0, tau_neg=12.0)
