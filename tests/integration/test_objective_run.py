"""Several options of the objective in a run as a user starts it, and that the run resumes bit for bit."""

from pathlib import Path

import pytest
from safetensors.torch import load_file
from support import RunCommand
from torch import equal

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

SEVERAL = (
    "num_iterations=3",
    "checkpoint.every=1",
    "learner.lr_schedule=constant",
    "learner.num_epochs=2",
    "learner.old_logprobs=recompute",
    "objective.advantage=leave_one_out",
    "objective.ratio=sequence",
    "objective.kl_coef=0.01",
    "objective.kl_estimator=k3",
    "objective.entropy_coef=0.001",
    "objective.correction=tis",
)


def test_several_options_train_and_resume_bit_for_bit(run_command: RunCommand, tmp_path: Path) -> None:
    undisturbed = run_command(tmp_path / "undisturbed", *SEVERAL)
    assert undisturbed.status == 0, undisturbed.output
    rows = undisturbed.rows()
    assert len(rows) == 3
    for row in rows:
        assert row["correction/weight_mean"] == pytest.approx(1.0, abs=1e-4), "engine and learner agree on a CPU"
        assert row["correction/clipped_share"] == 0.0
        assert row["objective/kl"] > 0.0
        assert row["ratio/log_std_within"] > row["ratio/variance"] ** 0.5, "the gate sees means of sequences"
    assert rows[2]["objective/kl"] > 4 * rows[0]["objective/kl"], "the policy moves away from the initial model"

    stopped = run_command(tmp_path / "run", *SEVERAL, interrupt_after=1)
    assert stopped.status == 130, stopped.output
    assert len(stopped.rows()) < 3
    resumed = run_command(tmp_path / "run", *SEVERAL, "resume=true")
    assert resumed.status == 0, resumed.output
    assert resumed.fixed_metrics() == undisturbed.fixed_metrics()
    weights, expected = (load_file(run.run_dir / "model/model.safetensors") for run in (resumed, undisturbed))
    assert all(equal(weights[name], expected[name]) for name in expected)


def test_masked_and_punished_completions_train(run_command: RunCommand, tmp_path: Path) -> None:
    masked = run_command(tmp_path / "masked", "num_iterations=1", "objective.overlong=mask")
    assert masked.status == 0, masked.output
    (row,) = masked.rows()
    assert 0.0 < row["completion/truncated_share"] < 1.0
    assert row["gate/eur"] > 0.0
    punish = ("objective.overlong=punish", "objective.overlong_buffer=8", "objective.advantage=group_mean")
    punished = run_command(tmp_path / "punished", "num_iterations=1", *punish)
    assert punished.status == 0, punished.output
    (other,) = punished.rows()
    assert other["reward/mean"] == row["reward/mean"], "rewards are the graders', before the punishment"
    assert other["grad_norm"] != row["grad_norm"]


def test_a_correction_that_a_cpu_leaves_without_effect_is_refused_in_one_line(
    run_command: RunCommand, tmp_path: Path
) -> None:
    run = run_command(tmp_path / "run", "objective.correction=tis", "cluster.device=auto")
    assert run.status == 1, run.output
    assert "softgate: objective.correction=tis: learner.old_logprobs=auto, which is rollout on a CPU" in run.output
    assert "set learner.old_logprobs=recompute" in run.output
    assert "Traceback" not in run.output
