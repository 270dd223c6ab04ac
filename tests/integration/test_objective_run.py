"""Options of the objective in runs as a user starts them; several at once, and their resume, in test_replay.py."""

import os
from pathlib import Path

import pytest
from support import CommandRun, RunCommand

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

CUSTOM_GATE = """
import torch


class Tanh:
    name = "tanh"

    def __init__(self, tau):
        self.tau = tau

    def value(self, ratio, positive):
        return torch.tanh(self.tau * (ratio - 1)) / self.tau
"""


def test_masked_and_punished_completions_train_under_a_gate_of_ones_own(
    main_run: CommandRun, run_command: RunCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The punished run trains on the groups of the masked one, with the engines' logprobs as they were recorded."""
    (tmp_path / "tanh_gate.py").write_text(CUSTOM_GATE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    own_gate = ("gate=custom", "gate.factory=tanh_gate:Tanh", "gate.parameters.tau=5.0")
    settings = (*own_gate, "num_iterations=1")
    masked = run_command(tmp_path / "masked", *settings, "objective.overlong=mask", f"rollout.record={tmp_path}/groups")
    assert masked.status == 0, masked.output
    assert masked.texts(0) == main_run.texts(0) != [], "another gate starts from the same completions"
    (row,) = masked.rows()
    assert 0.0 < row["completion/truncated_share"] < 1.0
    assert row["gate/eur"] > 0.0
    assert "tanh" in (masked.run_dir / "run.log").read_text()

    punish = ("objective.overlong=punish", "objective.overlong_buffer=8", "objective.advantage=group_mean")
    punished = run_command(tmp_path / "punished", *settings, *punish, f"rollout.replay={tmp_path}/groups")
    assert punished.status == 0, punished.output
    (other,) = punished.rows()
    assert other["reward/mean"] == row["reward/mean"], "rewards are the graders', before the punishment"
    assert other["grad_norm"] != row["grad_norm"]
    # tanh(tau) is sigmoid(2 tau) up to a constant, and the audit's sigmoid has tau_pos=10
    assert other["gate/eur_pos"] == pytest.approx(other["audit/sigmoid/eur_pos"], rel=1e-4)
    assert 0.0 < other["gate/eur"] < 1.0
    assert "gate/tau_pos" not in other


def test_a_correction_that_a_cpu_leaves_without_effect_is_refused_in_one_line(
    run_command: RunCommand, tmp_path: Path
) -> None:
    run = run_command(tmp_path / "run", "objective.correction=tis", "cluster.device=auto")
    assert run.status == 1, run.output
    assert "softgate: objective.correction=tis: learner.old_logprobs=auto, which is rollout on a CPU" in run.output
    assert "set learner.old_logprobs=recompute" in run.output
    assert "Traceback" not in run.output
