"""Recording and replay around the loop, and what is refused before anything starts."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sampled import one_turn, versions
from verdicts import verdict_of

from configs.command import read_command
from configs.loading import ConfigError, load_config
from configs.objective import ObjectiveConfig
from configs.schema import ClusterConfig, LearnerConfig, RolloutConfig, RunConfig
from orchestration.placement import plan_placement
from orchestration.startup.resume import check_resumable
from orchestration.stream.batches import to_train_batch
from orchestration.stream.recorded_groups import RecordingStream, ReplayStream
from orchestration.stream.recordings import manifest_of, refuse_gaps, refuse_other_vocabulary, refuse_recordings
from rollout.contract import Completion, GradedGroup, Prompt, PromptGroup
from rollout.recording import RecordingError, num_recorded, write_iteration, write_manifest

SMALL = ["rollout.prompts_per_iteration=2", "rollout.completions_per_prompt=3", "num_iterations=2"]


def config_of(*settings: str) -> RunConfig:
    return load_config([*SMALL, *settings])


def batch(iteration: int) -> list[GradedGroup]:
    completion = Completion(
        tokens=one_turn(
            [1, 2], [3, 4], logprobs=np.array([-0.5, -iteration], dtype=np.float32), starts=versions((iteration, 0))
        ),
        text="",
        finished=True,
    )
    groups = []
    for index in (2 * iteration, 2 * iteration + 1):
        token_ids = np.array([1, 2], dtype=np.int32)
        prompt = Prompt(position=index, token_ids=token_ids, text="", reference_answer="", source="arithmetic")
        group = PromptGroup(prompt=prompt, completions=(completion,) * 3, engine_index=0, generate_s=0.5)
        groups.append(GradedGroup(group=group, verdicts=(verdict_of(format=1.0, answer=0.0),) * 3))
    return groups


def record(folder: Path, *settings: str, num_iterations: int = 2) -> None:
    write_manifest(folder, manifest_of(config_of(*settings), vocabulary="v"))
    for iteration in range(num_iterations):
        write_iteration(folder, iteration, batch(iteration))


def refusal(*settings: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        refuse_recordings(config_of(*settings))
    assert all("\n" not in line for line in caught.value.lines)
    return caught.value.lines


def test_what_passes_is_written_and_comes_out_of_the_replay(tmp_path: Path) -> None:
    events: list[str] = []
    source = SimpleNamespace(
        admit=lambda version: events.append(f"admit {version}"),
        take=batch,
        summary=lambda: {"time/generate_s": 1.0},
    )
    stream = RecordingStream(source, tmp_path, manifest_of(config_of(), vocabulary="v"), start_iteration=0)
    stream.admit(3)
    assert events == ["admit 3"]
    assert stream.summary() == {"time/generate_s": 1.0}
    taken = [stream.take(iteration) for iteration in range(2)]

    replay = ReplayStream(tmp_path, prompts_per_iteration=2, completions_per_prompt=3)
    for iteration in range(2):
        replay.admit(iteration)
        found = replay.take(iteration)
        assert [item.position for item in found] == [item.position for item in taken[iteration]]
        assert [item.rewards.tolist() for item in found] == [item.rewards.tolist() for item in taken[iteration]]
    assert replay.summary() == {}


def test_only_replayed_samples_are_marked_as_those_of_another_policy(tmp_path: Path) -> None:
    record(tmp_path)
    replayed = ReplayStream(tmp_path, prompts_per_iteration=2, completions_per_prompt=3).take(1)
    for groups, marked in ((replayed, True), (batch(1), False)):
        trained = to_train_batch(groups, policy_version=1, objective=ObjectiveConfig(), max_new_tokens=32)
        assert {sample.is_replayed for sample in trained.samples} == {marked}


def test_a_resumed_recording_drops_what_it_generates_anew(tmp_path: Path) -> None:
    record(tmp_path, num_iterations=5)
    source = SimpleNamespace(take=batch)
    stream = RecordingStream(source, tmp_path, manifest_of(config_of(), vocabulary="v"), start_iteration=2)  # type: ignore[arg-type]
    assert num_recorded(tmp_path) == 2
    stream.take(2)
    assert num_recorded(tmp_path) == 3


def test_an_iteration_of_another_shape_is_named(tmp_path: Path) -> None:
    record(tmp_path)
    with pytest.raises(RecordingError, match="iteration 1 has groups of"):
        ReplayStream(tmp_path, prompts_per_iteration=2, completions_per_prompt=4).take(1)


def test_any_gate_seed_and_learner_may_replay(tmp_path: Path) -> None:
    record(tmp_path)
    others = (
        "gate=clip",
        "seed=5",
        "learner.lr=0.5",
        "learner.num_epochs=3",
        "rollout.num_engines=7",
        "num_iterations=1",
    )
    refuse_recordings(config_of(f"rollout.replay={tmp_path}", *others))


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("rollout.prompts_per_iteration=3", "rollout.prompts_per_iteration=2, now rollout.prompts_per_iteration=3"),
        ("rollout.completions_per_prompt=4", "rollout.completions_per_prompt=3, now rollout.completions_per_prompt=4"),
        ("rollout.temperature=0.7", "rollout.temperature=1.0, now rollout.temperature=0.7"),
        ("rollout.max_new_tokens=31", "rollout.max_new_tokens=32, now rollout.max_new_tokens=31"),
        ("max_staleness=1", "max_staleness=0, now max_staleness=1"),
        ("task.held_out=401", "task.held_out=400, now task.held_out=401"),
    ],
)
def test_what_made_the_groups_must_be_as_it_was(tmp_path: Path, setting: str, told: str) -> None:
    record(tmp_path)
    (line,) = refusal(f"rollout.replay={tmp_path}", setting)
    assert line == f"rollout.replay={tmp_path}: was recorded with {told}; leave these settings as they were"


def test_rows_too_short_for_the_recorded_sequences_are_refused(tmp_path: Path) -> None:
    record(tmp_path, "model.max_model_len=300")
    (line,) = refusal(f"rollout.replay={tmp_path}", "learner.max_tokens_per_micro_batch=299")
    assert line.startswith("learner.max_tokens_per_micro_batch=299: must be at least 300")


def test_a_recording_of_other_settings_than_the_schema_knows_is_refused(tmp_path: Path) -> None:
    manifest = manifest_of(config_of(), vocabulary="v")
    write_manifest(tmp_path, type(manifest)(settings={**manifest.settings, "novel": 1}, vocabulary="v"))
    (line,) = refusal(f"rollout.replay={tmp_path}")
    assert "novel=1: no such setting" in line
    assert "record again" in line


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    record(tmp_path)
    refuse_other_vocabulary(tmp_path, vocabulary="v")
    with pytest.raises(RecordingError, match=r"another tokenizer than that of model\.path"):
        refuse_other_vocabulary(tmp_path, vocabulary="w")


def test_a_recording_wants_a_folder_of_its_own(tmp_path: Path) -> None:
    refuse_recordings(config_of(f"rollout.record={tmp_path}"))
    refuse_recordings(config_of(f"rollout.record={tmp_path / 'new'}"))
    record(tmp_path)
    (line,) = refusal(f"rollout.record={tmp_path}")
    assert line.startswith(f"rollout.record={tmp_path}: exists and is not an empty folder")
    refuse_recordings(config_of(f"rollout.record={tmp_path}", "resume=true"))


def test_a_resume_needs_every_iteration_before_it(tmp_path: Path) -> None:
    record(tmp_path)
    config = config_of(f"rollout.record={tmp_path}", "resume=true")
    refuse_gaps(config, iteration=2)
    with pytest.raises(ConfigError, match="holds 2 iterations, and resume=true continues after 3"):
        refuse_gaps(config, iteration=3)
    refuse_gaps(config_of(), iteration=3)


@pytest.mark.parametrize("setting", ["rollout.record", "rollout.replay"])
def test_a_folder_that_the_kernel_refuses_is_refused_in_one_line(tmp_path: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match=r"name.* too long|longer than the file system allows") as caught:
        refuse_recordings(config_of(f"{setting}={tmp_path}/{'x' * 300}"))
    assert len(caught.value.lines) == 1
    assert caught.value.lines[0].startswith(setting)


def test_one_run_either_records_or_replays() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.record=a: cannot be combined with rollout\.replay=b"):
        config_of("rollout.record=a", "rollout.replay=b")


def test_a_replay_cannot_evaluate_on_its_way() -> None:
    with pytest.raises(ConfigError, match=r"eval\.every=5: must be 0 with rollout\.replay=b"):
        config_of("rollout.replay=b", "eval.every=5")


@pytest.mark.parametrize("setting", ["rollout.record=b", "rollout.replay=b"])
def test_a_resume_may_not_change_what_is_recorded_or_replayed(tmp_path: Path, setting: str) -> None:
    with pytest.raises(ConfigError, match=rf"{setting.partition('=')[0]}=null, now {setting}"):
        check_resumable(config_of(), config_of(setting, "resume=true"), tmp_path)


def test_runs_of_a_sweep_do_not_share_a_recording() -> None:
    with pytest.raises(ConfigError, match=r"rollout\.record=x: several runs of the sweep would share it"):
        read_command(["-m", "gate=softsign,clip", "rollout.record=x"])
    configs = read_command(["-m", "gate=softsign,clip", "rollout.record='x-${gate.name}'"])
    assert [config.rollout.record for config in configs or ()] == ["x-softsign", "x-clip"]


def test_a_replay_places_the_learner_only() -> None:
    rollout = RolloutConfig(num_engines=3, replay="groups")
    placement = plan_placement(ClusterConfig(), rollout, LearnerConfig(num_workers=2), resources={"CPU": 2.0})
    assert placement.engine_bundles == ()
    assert placement.demand() == {"CPU": 2.0}
    assert placement.describe() == "2 learner rank(s) of 1 CPU"
