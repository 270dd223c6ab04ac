"""What a run may record and what it may replay, decided before anything starts.

In: the configuration and the folders of rollout.record and rollout.replay. Out: nothing, or a ConfigError with one line
for each mistake. Looks at manifests and at which iterations there are, not into the groups.
"""

from pathlib import Path

from configs.differences import differences, typed
from configs.loading import ConfigError, validate
from configs.schema import RunConfig
from rollout.recording import REMEDY, Manifest, RecordingError, num_recorded, read_manifest

# What made the groups and still has a meaning when they are trained on: it must be as it was. Engines, graders and
# publishing made them too, but have no part in a replay.
SAME_SECTIONS = ("task", "reward")
SAME_SETTINGS = (
    "max_staleness",
    "rollout.prompts_per_iteration",
    "rollout.completions_per_prompt",
    "rollout.max_new_tokens",
    "rollout.temperature",
)


def refuse_recordings(config: RunConfig) -> None:
    """ConfigError where this run cannot write the recording, or cannot train on it, that its settings name."""
    if config.rollout.record is not None and not config.resume:
        _refuse_used_folder(Path(config.rollout.record))
    if config.rollout.replay is not None:
        _refuse_replay(config, Path(config.rollout.replay))


def refuse_gaps(config: RunConfig, *, iteration: int) -> None:
    """ConfigError where a run that resumes at `iteration` cannot continue its recording."""
    if config.rollout.record is None:
        return
    folder = Path(config.rollout.record)
    recorded = num_recorded(folder)
    if recorded < iteration:
        raise ConfigError(
            [
                f"rollout.record={folder}: holds {recorded} iterations, and resume=true continues after {iteration}; "
                f"restore the folder or start a new run"
            ]
        )


def manifest_of(config: RunConfig, *, vocabulary: str) -> Manifest:
    """What a recording of this run tells about itself."""
    return Manifest(settings=config.model_dump(mode="json"), vocabulary=vocabulary)


def refuse_other_vocabulary(folder: Path, *, vocabulary: str) -> None:
    """RecordingError where the recorded token ids mean something else to the model that is to train on them."""
    if read_manifest(folder).vocabulary != vocabulary:
        raise RecordingError(
            f"rollout.replay={folder}: was recorded with another tokenizer than that of model.path; name the model "
            f"that recorded it or one with the same tokenizer"
        )


def _refuse_used_folder(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            [f"rollout.record={folder}: exists and is not an empty folder; name a new one, or resume its run"]
        )


def _refuse_replay(config: RunConfig, folder: Path) -> None:
    try:
        recorded = validate(read_manifest(folder).settings)
    except (RecordingError, ConfigError) as error:
        told = " ".join(str(error).split())
        hint = f"; {REMEDY}" if isinstance(error, ConfigError) else ""
        raise ConfigError([f"rollout.replay: {told}{hint}"]) from None
    lines = []
    changed = [
        f"{name}={typed(before)}, now {name}={typed(now)}"
        for name, before, now in differences(recorded, config)
        if name in SAME_SETTINGS or name.partition(".")[0] in SAME_SECTIONS
    ]
    if changed:
        told = "; ".join(changed)
        lines.append(f"rollout.replay={folder}: was recorded with {told}; leave these settings as they were")
    count = num_recorded(folder)
    if count < config.num_iterations:
        lines.append(
            f"num_iterations={config.num_iterations}: rollout.replay={folder} holds {count} recorded iterations; "
            f"lower it to that or record more"
        )
    longest, room = recorded.model.max_model_len, config.learner.max_tokens_per_micro_batch
    if longest > room:
        lines.append(
            f"learner.max_tokens_per_micro_batch={room}: must be at least {longest}, the longest sequence that "
            f"rollout.replay={folder} may hold"
        )
    if lines:
        raise ConfigError(lines)
