"""The folder of a run: chosen and created for a new run, found and checked for a resumed one.

In: the run's configuration. Out: the absolute path of a new folder or, with resume=true, of the run to continue. Reads
folder names, whether a folder holds a run, and that run's config.yaml; journal and checkpoint store own everything else
inside.
"""

import re
from pathlib import Path

from configs.differences import differences, typed
from configs.loading import ConfigError, read_yaml
from configs.schema import RunConfig
from orchestration.journal.run_files import CHECKPOINT_FOLDER, CONFIG_FILE, METRICS_FILE

# Settings that a resume may change: hardware, time-outs, outputs and memory do not affect what is computed.
FREE_SECTIONS = ("graders", "publish", "recovery", "checkpoint", "eval", "journal")
FREE_SETTINGS = (
    "run_dir",
    "resume",
    "dry_run",
    "cluster.address",
    "cluster.cpus_per_engine",
    "cluster.cpus_per_learner",
    "cluster.gpus_per_engine",
    "cluster.gpus_per_learner",
    "cluster.placement_timeout_s",
    "cluster.start_timeout_s",
    "rollout.num_engines",
    "rollout.min_engines",
    "rollout.tensor_parallel_size",
    "rollout.gpu_memory_utilization",
    "rollout.kv_cache_gib",
    "rollout.max_num_seqs",
    "rollout.timeout_s",
    "learner.max_tokens_per_micro_batch",
    "learner.gradient_checkpointing",
    "learner.timeout_s",
)


class RunDirError(RuntimeError):
    """The run cannot use its folder; the message is one line and says what to change."""


def resolve_run_dir(config: RunConfig, *, root: Path = Path("runs")) -> Path:
    """The folder of this run, created if it is new.

    run_dir="auto" means root/<task>-<gate>-seed<seed>-NNN. NNN is one above the highest number in use for a new run,
    and the highest number with a run for resume=true. RunDirError where a new run's folder holds a run already, or
    there is no run to resume.
    """
    if config.run_dir != "auto":
        folder = Path(config.run_dir)
        if folder.exists() and not folder.is_dir():
            raise RunDirError(f"run_dir={folder}: is not a folder; name another one")
        if config.resume and not _holds_run(folder):
            raise RunDirError(f"run_dir={folder}: holds no run to resume; check the path or leave out resume=true")
        if not config.resume and _holds_run(folder):
            raise RunDirError(
                f"run_dir={folder}: holds a run already; set resume=true to continue it or name another folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        return folder.resolve()
    stem = f"{config.task.name}-{config.gate.name}-seed{config.seed}"
    if not config.resume:
        return next_free(root, stem)
    runs = {number: folder for number, folder in _numbered(root, stem).items() if _holds_run(folder)}
    if not runs:
        raise RunDirError(f"resume=true: no run at {root / stem}-* to resume; set run_dir=<folder> or leave it out")
    return runs[max(runs)].resolve()


def check_resumable(config: RunConfig, run_dir: Path) -> None:
    """Raises RunDirError, naming each setting, where config would not continue the run in run_dir.

    num_iterations may change if the learning rate does not depend on it.
    """
    path = run_dir / CONFIG_FILE
    try:
        stored = read_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunDirError(
            f"{path}: is missing, and a resume needs the settings in it; restore it or start a new run"
        ) from None
    except ConfigError as error:
        raise RunDirError(
            f"{path}: {'; '.join(error.lines)}; resume with the version of the program that wrote it"
        ) from None
    free = (*FREE_SETTINGS, "num_iterations") if stored.learner.lr_schedule == "constant" else FREE_SETTINGS
    changed = [
        f"{name}={typed(before)}, now {name}={typed(now)}"
        for name, before, now in differences(stored, config)
        if name not in free and name.partition(".")[0] not in FREE_SECTIONS
    ]
    if changed:
        raise RunDirError(
            f"resume=true: {run_dir} was trained with {'; '.join(changed)}; leave these settings as they were or "
            f"start a new run without resume=true"
        )


def next_free(root: Path, stem: str) -> Path:
    """A new folder root/<stem>-NNN, one above the highest number in use."""
    root.mkdir(parents=True, exist_ok=True)
    number = max(_numbered(root, stem), default=0) + 1
    while True:
        folder = root / f"{stem}-{number:03d}"
        try:
            folder.mkdir()
        except FileExistsError:  # a run that started at the same moment took the number
            number += 1
        else:
            return folder.resolve()


def _numbered(root: Path, stem: str) -> dict[int, Path]:
    pattern = re.compile(re.escape(stem) + r"-(\d{3,})")
    matches = ((pattern.fullmatch(folder.name), folder) for folder in (root.iterdir() if root.is_dir() else ()))
    return {int(match[1]): folder for match, folder in matches if match}


def _holds_run(folder: Path) -> bool:
    return (folder / METRICS_FILE).exists() or (folder / CHECKPOINT_FOLDER).exists()
