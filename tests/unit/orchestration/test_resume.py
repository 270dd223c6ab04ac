"""What a resume may change, and the one line it is refused with."""

from pathlib import Path

import pytest

from configs.loading import dump_yaml, load_config
from orchestration.journal.run_files import CONFIG_FILE
from orchestration.run_dir import RunDirError, check_resumable

FREE = (
    "dry_run=true",
    "run_dir=elsewhere",
    "cluster.address=head:6379",
    "cluster.start_timeout_s=5",
    "journal.progress=false",
    "eval.num_prompts=7",
    "checkpoint.every=3",
    "graders.num_workers=2",
    "publish.probe_every=2",
    "rollout.num_engines=2",
    "rollout.min_engines=1",
    "recovery.max_restarts=3",
    "rollout.gpu_memory_utilization=0.5",
    "rollout.timeout_s=5",
    "learner.timeout_s=5",
    "learner.max_tokens_per_micro_batch=999",
)


def refusal(folder: Path, *settings: str) -> str:
    with pytest.raises(RunDirError) as caught:
        check_resumable(load_config([*settings, "resume=true"]), folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def store(folder: Path, *settings: str) -> None:
    (folder / CONFIG_FILE).write_text(dump_yaml(load_config(settings)), encoding="utf-8")


def test_what_is_no_part_of_the_mathematics_may_change(tmp_path: Path) -> None:
    store(tmp_path)
    check_resumable(load_config(["resume=true"]), tmp_path)
    check_resumable(load_config([*FREE, "resume=true"]), tmp_path)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("learner.lr=0.5", "learner.lr=0.001, now learner.lr=0.5"),
        ("seed=4", "seed=0, now seed=4"),
        ("gate=clip", "gate.name=softsign, now gate.name=clip"),
        ("gate.tau_neg=3", "gate.tau_neg=12.0, now gate.tau_neg=3.0"),
        ("rollout.prompts_per_iteration=5", "now rollout.prompts_per_iteration=5"),
        ("learner.num_workers=2", "learner.num_workers=1, now learner.num_workers=2"),
        ("max_staleness=1", "max_staleness=0, now max_staleness=1"),
        ("model.trust_remote_code=true", "model.trust_remote_code=false, now model.trust_remote_code=true"),
        ("learner.betas=[0.5,0.6]", "now learner.betas=[0.5, 0.6]"),
        ("cluster.device=gpu", "cluster.device=cpu, now cluster.device=gpu"),
    ],
)
def test_another_algorithm_is_refused_with_both_values_and_a_remedy(tmp_path: Path, setting: str, told: str) -> None:
    settings = ["learner.lr=0.001", "gate=softsign", "cluster.device=cpu"]
    store(tmp_path, *settings)
    line = refusal(tmp_path, *settings, setting)
    assert line.startswith(f"resume=true: {tmp_path} was trained with ")
    assert told in line
    assert line.count(", now ") == 1
    assert line.endswith("leave these settings as they were or start a new run without resume=true")


def test_all_differences_are_told_at_once(tmp_path: Path) -> None:
    store(tmp_path, "seed=1")
    assert "seed=1, now seed=2" in (line := refusal(tmp_path, "seed=2", "learner.num_epochs=3"))
    assert "; learner.num_epochs=1, now learner.num_epochs=3; leave" in line


def test_a_run_may_grow_where_its_learning_rate_does_not_fall(tmp_path: Path) -> None:
    store(tmp_path, "num_iterations=5", "learner.lr_schedule=constant")
    check_resumable(load_config(["num_iterations=9", "learner.lr_schedule=constant", "resume=true"]), tmp_path)
    assert "learner.lr_schedule=constant, now" in refusal(tmp_path, "num_iterations=5", "learner.lr_schedule=linear")
    store(tmp_path, "num_iterations=5", "learner.lr_schedule=linear")
    assert "num_iterations=5, now num_iterations=9" in refusal(
        tmp_path, "num_iterations=9", "learner.lr_schedule=linear"
    )


def test_without_a_readable_configuration_there_is_no_resume(tmp_path: Path) -> None:
    assert "is missing" in refusal(tmp_path)
    (tmp_path / CONFIG_FILE).write_text("gate: {name: sofsign}\n")
    line = refusal(tmp_path)
    assert str(tmp_path / CONFIG_FILE) in line
    assert "version of the program that wrote it" in line
