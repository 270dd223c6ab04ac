"""The settings that resume=true may change, and what is said about each change.

In: the settings of the stored run and of the command, and the iteration that the run continues at. Out: lines that
state the changes, or a ConfigError that names those that would make it another experiment.
"""

from pathlib import Path

from configs.differences import differences, typed
from configs.loading import ConfigError, read_yaml
from configs.schema import RunConfig
from learner.lr_schedule import lr_at
from orchestration.journal.run_files import CONFIG_FILE

# A setting or a whole section each. Hardware, time-outs, outputs and memory do not affect what is computed.
FREE = (
    "run_dir",
    "resume",
    "resume_force",
    "dry_run",
    "num_iterations",  # check_length has its rules
    "graders",
    "publish",
    "recovery",
    "checkpoint",
    "journal",
    "cluster.address",
    "cluster.cpus_per_engine",
    "cluster.cpus_per_learner",
    "cluster.gpus_per_engine",
    "cluster.gpus_per_learner",
    "cluster.placement_timeout_s",
    "cluster.start_timeout_s",
    "rollout.num_engines",
    "rollout.min_engines",
    "rollout.gpu_memory_utilization",
    "rollout.kv_cache_gib",
    "rollout.max_num_seqs",
    "rollout.timeout_s",
    "learner.timeout_s",
)
# These change the order in which floats are added, and with it their last digits.
ROUNDING = (
    "learner.num_workers",
    "learner.zero_stage",
    "learner.max_tokens_per_micro_batch",
    "learner.max_logits",
    "learner.gradient_checkpointing",
    "rollout.frontend",
    "rollout.tensor_parallel_size",
    "rollout.enforce_eager",
    "rollout.attention_backend",
)
# These count for what comes after the resume, without making it another experiment.
LATER = ("eval", "graders.timeout_s", "publish.inflight", "learner.audit")


def stored_settings(run_dir: Path) -> RunConfig:
    """The settings of the run in the folder; ConfigError where they cannot be read."""
    path = run_dir / CONFIG_FILE
    try:
        return read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            [f"{path}: is missing, and a resume needs the settings in it; restore it or start a new run"]
        ) from None
    except ConfigError as error:
        remedy = "resume with the version of the program that wrote it"
        raise ConfigError([f"{path}: {'; '.join(error.lines)}; {remedy}"]) from None


def check_resumable(stored: RunConfig, config: RunConfig, run_dir: Path) -> tuple[str, ...]:
    """A line for each kind of change that has an effect; ConfigError where config would not continue the stored run."""
    kinds: dict[str, list[tuple[str, object, object]]] = {"rounding": [], "later": [], "other": []}
    for change in differences(stored, config):
        if (kind := _kind(change[0])) != "free":
            kinds[kind].append(change)
    if kinds["other"] and not config.resume_force:
        changed = "; ".join(f"{name}={typed(before)}, now {name}={typed(now)}" for name, before, now in kinds["other"])
        raise ConfigError(
            [
                f"resume=true: {run_dir} was trained with {changed}; leave these settings as they were, start a new "
                f"run without resume=true, or continue all the same with resume_force=true"
            ]
        )
    said = {
        "rounding": "results agree with those of the earlier settings up to rounding, not bit for bit",
        "later": "counts from here on",
        "other": "another experiment from here on, because of resume_force=true",
    }
    return tuple(f"continued with {_listed(changes)}: {said[kind]}" for kind, changes in kinds.items() if changes)


def check_length(stored: RunConfig, config: RunConfig, *, iteration: int) -> tuple[str, ...]:
    """A line about the learning rate where another num_iterations moves it; iteration: iterations trained so far.

    ConfigError where num_iterations is below that.
    """
    before, now = stored.num_iterations, config.num_iterations
    if now < iteration:
        raise ConfigError([f"num_iterations={now}: {iteration} are trained already; must be at least {iteration}"])
    if now == before or config.learner.lr_schedule == "constant":
        return ()
    rates = [_lr(settings, iteration) for settings in (config, stored)]
    return (
        f"continued with num_iterations={now}, before {before}: the linear schedule's learning rate at iteration "
        f"{iteration} is {rates[0]:.4g}, before {rates[1]:.4g}",
    )


def _kind(name: str) -> str:
    groups = {"rounding": ROUNDING, "later": LATER, "free": FREE}  # in this order: a setting before its section
    found = (kind for kind, names in groups.items() if name in names or name.partition(".")[0] in names)
    return next(found, "other")


def _listed(changes: list[tuple[str, object, object]]) -> str:
    return "; ".join(f"{name}={typed(now)}, before {typed(before)}" for name, before, now in changes)


def _lr(config: RunConfig, iteration: int) -> float:
    """Learning rate of an iteration's first step; 0 after the last iteration."""
    learner, total = config.learner, config.num_iterations
    if iteration >= total:
        return 0.0
    return lr_at(iteration, total_steps=total, lr=learner.lr, schedule=learner.lr_schedule)
