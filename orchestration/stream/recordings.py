"""Checks of rollout.record and rollout.replay before anything starts.

In: the configuration and the two folders. Out: nothing, or a ConfigError with one line for each mistake. It reads
manifests and the list of recorded iterations, not the groups.
"""

from pathlib import Path

from configs.differences import differences, typed
from configs.loading import ConfigError, validate
from configs.schema import RunConfig
from orchestration.startup.folders import is_empty, refusing_unwritable
from rollout.recording import REMEDY, Manifest, RecordingError, num_recorded, read_manifest

# Settings that shaped the groups and matter when they are trained on: they must not change. Those of engines, graders
# and publishing have no effect on a replay.
SAME_SECTIONS = ("task", "reward")
SAME_SETTINGS = (
    "max_staleness",
    "rollout.prompts_per_iteration",
    "rollout.completions_per_prompt",
    "rollout.max_new_tokens",
    "rollout.temperature",
)


def refuse_recordings(config: RunConfig) -> None:
    """ConfigError if this run cannot write to rollout.record or cannot train on rollout.replay."""
    if config.rollout.record is not None and not config.resume:
        folder = Path(config.rollout.record)
        with refusing_unwritable(f"rollout.record={folder}"):
            if folder.exists() and (not folder.is_dir() or not is_empty(folder)):
                raise ConfigError(
                    [f"rollout.record={folder}: exists and is not an empty folder; name a new one, or resume its run"]
                )
    if config.rollout.replay is not None:
        _refuse_replay(config, Path(config.rollout.replay))


def refuse_gaps(config: RunConfig, *, iteration: int) -> None:
    """ConfigError if a run that resumes at `iteration` cannot continue its recording."""
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
    """The manifest of a recording of this run."""
    return Manifest(settings=config.model_dump(mode="json"), vocabulary=vocabulary)


def refuse_other_vocabulary(folder: Path, *, vocabulary: str) -> None:
    """RecordingError if the recorded token ids mean other tokens in the vocabulary of the model to train."""
    if read_manifest(folder).vocabulary != vocabulary:
        raise RecordingError(
            f"rollout.replay={folder}: was recorded with another tokenizer than that of model.path; name the model "
            f"that recorded it or one with the same tokenizer"
        )


def _refuse_replay(config: RunConfig, folder: Path) -> None:
    try:
        recorded = validate(read_manifest(folder).settings)
    except (RecordingError, ConfigError, OSError) as error:
        reason = " ".join(str(error).split())
        hint = f"; {REMEDY}" if isinstance(error, ConfigError) else ""
        raise ConfigError([f"rollout.replay: {reason}{hint}"]) from None
    lines = []
    changed = [
        f"{name}={typed(before)}, now {name}={typed(now)}"
        for name, before, now in differences(recorded, config)
        if name in SAME_SETTINGS or name.partition(".")[0] in SAME_SECTIONS
    ]
    if changed:
        settings = "; ".join(changed)
        lines.append(f"rollout.replay={folder}: was recorded with {settings}; leave these settings as they were")
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
