"""What a resume may change, what is said about it, and the one line it is refused with."""

from pathlib import Path

import pytest

from configs.loading import ConfigError, dump_yaml, load_config
from configs.schema import RunConfig
from orchestration.journal.run_files import CONFIG_FILE
from orchestration.startup.resume import (
    FREE,
    LATER,
    ROUNDING,
    check_length,
    check_resumable,
    stored_settings,
)

SILENT = (
    "dry_run=true",
    "run_dir=elsewhere",
    "cluster.address=head:6379",
    "cluster.start_timeout_s=5",
    "journal.progress=false",
    "checkpoint.every=3",
    "graders.num_workers=2",
    "publish.probe_every=2",
    "rollout.num_engines=2",
    "rollout.gpu_memory_utilization=0.5",
    "rollout.timeout_s=5",
    "learner.timeout_s=5",
)


def changes(before: tuple[str, ...], now: tuple[str, ...]) -> tuple[str, ...]:
    return check_resumable(load_config(before), load_config([*now, "resume=true"]), Path("run"))


def refusal(before: tuple[str, ...], now: tuple[str, ...]) -> str:
    with pytest.raises(ConfigError) as caught:
        changes(before, now)
    (line,) = caught.value.lines
    assert "\n" not in line
    return line


def test_every_setting_that_may_change_exists() -> None:
    sections = RunConfig.model_fields
    for name in (*FREE, *ROUNDING, *LATER):
        section, _, field = name.partition(".")
        assert section in sections, name
        if field:
            assert field in sections[section].annotation.model_fields, name  # type: ignore[union-attr]


def test_what_is_no_part_of_the_mathematics_changes_without_a_word() -> None:
    assert changes((), ()) == ()
    assert changes((), SILENT) == ()


@pytest.mark.parametrize(
    "setting",
    [
        "learner.max_tokens_per_micro_batch=999",
        "learner.num_workers=2",
        "learner.zero_stage=3",
        "learner.gradient_checkpointing=true",
        "rollout.tensor_parallel_size=2",
    ],
)
def test_what_changes_the_rounding_is_stated_with_both_values(setting: str) -> None:
    name = setting.partition("=")[0]
    (line,) = changes((), (setting,))
    assert line.startswith(f"continued with {setting}, before ")
    assert line.endswith(": results agree with those of the earlier settings up to rounding, not bit for bit")
    assert line.count(name) == 1


def test_what_counts_from_the_resume_on_is_stated_in_a_line_of_its_own() -> None:
    rounding, later = changes((), ("learner.zero_stage=1", "eval.num_prompts=7", "graders.timeout_s=3"))
    assert rounding.startswith("continued with learner.zero_stage=1, before 0: ")
    assert "eval.num_prompts=7" in later
    assert "graders.timeout_s=3.0, before 10.0" in later
    assert later.endswith(": counts from here on")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("learner.lr=0.5", "learner.lr=0.001, now learner.lr=0.5"),
        ("seed=4", "seed=0, now seed=4"),
        ("gate=clip", "gate.name=softsign, now gate.name=clip"),
        ("gate.tau_neg=3", "gate.tau_neg=12.0, now gate.tau_neg=3.0"),
        ("rollout.prompts_per_iteration=5", "now rollout.prompts_per_iteration=5"),
        ("learner.dtype=bfloat16", "learner.dtype=float32, now learner.dtype=bfloat16"),
        ("learner.lr_schedule=constant", "now learner.lr_schedule=constant"),
        ("max_staleness=1", "max_staleness=0, now max_staleness=1"),
        ("model.trust_remote_code=true", "model.trust_remote_code=false, now model.trust_remote_code=true"),
        ("learner.betas=[0.5,0.6]", "now learner.betas=[0.5, 0.6]"),
        ("cluster.device=gpu", "cluster.device=cpu, now cluster.device=gpu"),
    ],
)
def test_another_experiment_is_refused_with_both_values_and_continued_by_force(setting: str, told: str) -> None:
    settings = ("learner.lr=0.001", "learner.lr_schedule=linear", "gate=softsign", "cluster.device=cpu")
    line = refusal(settings, (*settings, setting))
    assert line.startswith("resume=true: run was trained with ")
    assert told in line
    assert line.count(", now ") == 1
    assert line.endswith("or continue all the same with resume_force=true")
    (forced,) = changes(settings, (*settings, setting, "resume_force=true"))
    assert forced.startswith(f"continued with {told.rpartition('now ')[2]}, before ")
    assert forced.endswith(": another experiment from here on, because of resume_force=true")


def test_all_differences_are_told_at_once() -> None:
    line = refusal(("seed=1",), ("seed=2", "learner.num_epochs=3", "learner.zero_stage=3"))
    assert "seed=1, now seed=2; learner.num_epochs=1, now learner.num_epochs=3; leave" in line


def test_force_without_a_resume_is_refused() -> None:
    with pytest.raises(ConfigError, match="resume_force=true: has an effect with resume=true only"):
        load_config(["resume_force=true"])


@pytest.mark.parametrize("now", [4, 5, 9])
def test_a_run_may_grow_and_shrink_and_a_linear_schedule_is_stated(now: int) -> None:
    constant, linear = (
        [load_config([f"num_iterations={n}", f"learner.lr_schedule={kind}", "learner.lr=0.001"]) for n in (5, now)]
        for kind in ("constant", "linear")
    )
    assert check_resumable(*linear, Path("run")) == ()
    assert check_length(*constant, iteration=4) == ()
    told = check_length(*linear, iteration=4)
    rates = {4: "0", 9: "0.0005556"}  # 0.001 (1 - 4/9); after the last iteration the schedule is at its end
    assert told == (
        ()
        if now == 5
        else (
            f"continued with num_iterations={now}, before 5: the linear schedule's learning rate at iteration 4 is "
            f"{rates[now]}, before 0.0002",
        )
    )


def test_fewer_iterations_than_are_trained_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_iterations=3: 4 are trained already; must be at least 4"):
        check_length(load_config(["num_iterations=5"]), load_config(["num_iterations=3"]), iteration=4)


def test_without_a_readable_configuration_there_is_no_resume(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is missing"):
        stored_settings(tmp_path)
    path = tmp_path / CONFIG_FILE
    path.write_text("gate: {name: sofsign}\n")
    with pytest.raises(ConfigError) as caught:
        stored_settings(tmp_path)
    (line,) = caught.value.lines
    assert line.startswith(f"{path}: ")
    assert "version of the program that wrote it" in line
    path.write_text(dump_yaml(load_config(["seed=7"])))
    assert stored_settings(tmp_path).seed == 7
