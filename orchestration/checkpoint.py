"""Checkpoints of a run: each is saved in full or not at all.

In: a temporary folder that learner ranks fill, and its RunState. Out: `iteration-000010/`, complete by construction,
and after a restart the newest complete one. Of the ranks' files this module knows sizes and digests only.
"""

import hashlib
import json
import logging
import re
import shutil
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from configs.files import sync
from orchestration.stream.positions import FRESH, StreamPositions

STATE_FILE = "state.json"
MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 1
# Larger files are checked by size only: hashing the optimizer state of a 7B model would take minutes at every start.
DIGEST_LIMIT_BYTES = 4 * 2**20
TEMPORARY_PREFIX = "tmp-"
REMEDY = "resume with the version of the program that wrote it"

logger = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, read or resumed; the message names its folder or its iteration."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunState:
    """The driver's state after an iteration, which a resume needs beside the files of the learner ranks.

    Of groups in flight it has the positions of their prompts only: a restart generates the groups again.
    """

    iteration: int  # number of completed iterations, and so the next iteration
    policy_version: int  # version of the learner's weights
    prompt_position: int  # number of trained prompts, without those that were replaced
    seed: int  # seed of the run; another one would not continue it
    positions: StreamPositions  # positions of the next prompts

    @classmethod
    def fresh(cls, *, seed: int) -> "RunState":
        return cls(iteration=0, policy_version=0, prompt_position=0, seed=seed, positions=FRESH)

    def advance(self, *, num_prompts: int, positions: StreamPositions) -> "RunState":
        """The state after one more iteration, which trained num_prompts prompts; positions: those after it."""
        return replace(
            self,
            iteration=self.iteration + 1,
            policy_version=self.policy_version + 1,
            prompt_position=self.prompt_position + num_prompts,
            positions=positions,
        )

    def check(self, *, seed: int, prompts_per_iteration: int) -> None:
        """Raises CheckpointError if a run with these settings would not continue this one."""
        where = f"checkpoint after {self.iteration} iterations"
        if self.seed != seed:
            raise CheckpointError(f"{where}: was written with seed={self.seed}, now seed={seed}; set seed={self.seed}")
        position = self.iteration * prompts_per_iteration
        if self.prompt_position != position:
            raise CheckpointError(
                f"{where}: {self.prompt_position} prompts were trained, rollout.prompts_per_iteration="
                f"{prompts_per_iteration} makes that {position}; set rollout.prompts_per_iteration as it was"
            )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RunState":
        """The state in the text; ValueError if a field is missing, unknown or of another type."""
        content = json.loads(text)
        types = {item.name: item.type for item in fields(cls)} | {"positions": dict}
        if not isinstance(content, dict) or {name: type(value) for name, value in content.items()} != types:
            raise ValueError(f"a run state has the fields {', '.join(types)}; found {' '.join(text.split())}")
        positions = content.pop("positions")
        if positions.keys() != {"unused", "open"} or not isinstance(positions["open"], list):
            raise ValueError(f"positions of a run state are unused and open; found {positions}")
        return cls(**content, positions=StreamPositions(unused=positions["unused"], open=tuple(positions["open"])))


class CheckpointStore:
    """The checkpoints of one run in the folder root; one process writes, any number may read.

    skipped: one line for each folder that the last call of latest() could not use, with the reason.
    """

    def __init__(self, root: Path, *, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep}: at least the newest checkpoint must be kept; set 1 or more")
        self._root = root
        self._keep = keep
        self.skipped: tuple[str, ...] = ()

    def begin(self, iteration: int) -> Path:
        """An empty temporary folder for the checkpoint after `iteration` iterations.

        Removes temporary folders that a crash left.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        for stale in self._root.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(stale)
        temporary = self._root / f"{TEMPORARY_PREFIX}{_folder_name(iteration)}"
        temporary.mkdir()
        return temporary

    def commit(self, temporary: Path, state: RunState) -> Path:
        """Makes the folder from begin() a checkpoint, durable on return, and deletes all but the newest `keep`.

        CheckpointError if a complete checkpoint of this iteration exists: it is not overwritten.
        """
        final = self._root / _folder_name(state.iteration)
        assert temporary.name == TEMPORARY_PREFIX + final.name, f"{temporary} is not for iteration {state.iteration}"
        if final.exists():
            if _defect(final) is None:
                raise CheckpointError(f"{final}: holds a complete checkpoint, which is not overwritten")
            self._discard(final)
        (temporary / STATE_FILE).write_text(state.to_json(), encoding="utf-8")
        paths = sorted(path for path in temporary.rglob("*") if path.is_file())
        files = {path.relative_to(temporary).as_posix(): _fingerprint(path) for path in paths}
        manifest = {"format_version": FORMAT_VERSION, "files": files}
        (temporary / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        _sync_tree(temporary)
        temporary.rename(final)
        sync(self._root)
        complete = [folder for folder in self._newest_first() if _defect(folder) is None]
        assert complete, f"{self._root}: the checkpoint just written is not complete"
        for folder in self._newest_first():
            if folder not in complete[: self._keep]:
                self._discard(folder)
        return final

    def latest(self) -> tuple[Path, RunState] | None:
        """The newest complete checkpoint, or None; newer incomplete ones are logged and listed in `skipped`."""
        skipped = []
        found = None
        for folder in self._newest_first():
            defect = _defect(folder)
            if defect is None:
                try:
                    found = (folder, RunState.from_json((folder / STATE_FILE).read_text(encoding="utf-8")))
                except ValueError as error:
                    # The digest is right, so another version of the program wrote it, and the older checkpoints too.
                    raise CheckpointError(f"{folder / STATE_FILE}: {error}; {REMEDY}") from error
                break
            skipped.append(f"checkpoint {folder} is skipped: {defect}")
            logger.warning(skipped[-1])
        self.skipped = tuple(skipped)
        return found

    def _newest_first(self) -> list[Path]:
        folders = [path for path in self._root.glob("iteration-*") if re.fullmatch(r"iteration-\d{6,}", path.name)]
        return sorted(folders, key=lambda folder: int(folder.name.removeprefix("iteration-")), reverse=True)

    def _discard(self, folder: Path) -> None:
        # Renamed first, so that a crash during the deletion leaves a temporary folder and no broken checkpoint.
        doomed = folder.rename(self._root / f"{TEMPORARY_PREFIX}deleted-{folder.name}")
        shutil.rmtree(doomed)


def _folder_name(iteration: int) -> str:
    return f"iteration-{iteration:06d}"


def _fingerprint(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    if size > DIGEST_LIMIT_BYTES:
        return {"bytes": size}
    return {"bytes": size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _defect(folder: Path) -> str | None:
    """The reason why the folder is not a complete checkpoint, or None if it is one."""
    manifest_path = folder / MANIFEST_FILE
    if not manifest_path.is_file():
        return f"{MANIFEST_FILE} is missing"
    try:
        manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        version = manifest["format_version"]
        files: dict[str, dict[str, Any]] = {name: {"bytes": 0, **entry} for name, entry in manifest["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST_FILE} is not readable ({type(error).__name__}: {error})"
    if version != FORMAT_VERSION:  # not damaged, so neither skipped nor deleted
        raise CheckpointError(f"{folder}: has format version {version}, this program reads {FORMAT_VERSION}; {REMEDY}")
    if STATE_FILE not in files:
        return f"{MANIFEST_FILE} does not list {STATE_FILE}"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        found = _fingerprint(path)
        if found["bytes"] != expected["bytes"]:
            return f"{name} has {found['bytes']} bytes, {expected['bytes']} were written"
        if found != expected:
            return f"{name} differs from what was written (sha256)"
    return None


def _sync_tree(folder: Path) -> None:
    """Syncs files, then folders from the deepest up, so that no later rename is durable before their content."""
    paths = [*folder.rglob("*"), folder]
    for path in sorted(paths, key=lambda path: (path.is_file(), len(path.parts)), reverse=True):
        sync(path)
