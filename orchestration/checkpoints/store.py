"""Checkpoints of a run: each is saved in full or not at all.

In: a temporary folder that learner ranks fill, what they say they wrote, and a RunState. Out: `iteration-000010/`,
complete by construction, and after a restart the newest that is as it was written. A damaged one is put aside, never
deleted. Of the ranks' files this module knows fingerprints only.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from configs.files import sync
from orchestration.checkpoints.manifest import MANIFEST_FILE, REMEDY, DamageError, Manifest
from orchestration.checkpoints.state import ResumeError, RunState
from orchestration.journal.json_lines import append_rows, keep_rows, read_rows
from orchestration.journal.run_files import CHECKPOINT_LOG
from transfer.fingerprints import Fingerprint, write_hashed

STATE_FILE = "state.json"
TEMPORARY_PREFIX = "tmp-"
DAMAGED_SUFFIX = ".damaged"
OTHER_REMEDY = "nothing was deleted; bring one back from a copy, or start a new run in another folder"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written; the message names its folder."""


def has_checkpoints(root: Path) -> bool:
    """Whether a resume would find a checkpoint there, be it damaged or not. Reads no file."""
    return any((folder / MANIFEST_FILE).is_file() for folder in _newest_first(root))


class CheckpointStore:
    """The checkpoints of one run in the folder root, and their log beside it; one process writes, any number may read.

    skipped: one line for each folder that the last call of latest() could not use, with the reason.
    """

    def __init__(self, root: Path, *, keep_last: int, keep_best: str | None = None) -> None:
        """keep_last: newest checkpoints kept; keep_best: metric whose best checkpoint is kept beside them."""
        if keep_last < 1:
            raise ValueError(f"keep_last={keep_last}: at least the newest checkpoint must be kept; set 1 or more")
        self._root = root
        self._log = root.parent / CHECKPOINT_LOG
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._damaged: list[Path] = []
        self.skipped: tuple[str, ...] = ()

    def begin(self, iteration: int) -> Path:
        """An empty temporary folder for the checkpoint after `iteration` iterations.

        Removes temporary folders that a crash left, and renames what latest() found damaged.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        while self._damaged:
            self._put_aside(self._damaged.pop())
        for stale in self._root.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(stale)
        temporary = self._root / f"{TEMPORARY_PREFIX}{_folder_name(iteration)}"
        temporary.mkdir()
        return temporary

    def commit(
        self,
        temporary: Path,
        state: RunState,
        files: Mapping[str, Fingerprint],
        *,
        evaluation: Mapping[str, float] | None = None,
        seconds: Mapping[str, float] | None = None,
    ) -> Path:
        """Makes the folder from begin() a checkpoint, durable on return, and deletes those that are not to be kept.

        files: what was written into the folder, all of it on the disk; evaluation: metrics of the weights; seconds:
        what it cost, for the log. CheckpointError if a complete checkpoint of this iteration exists.
        """
        final = self._root / _folder_name(state.iteration)
        assert temporary.name == TEMPORARY_PREFIX + final.name, f"{temporary} is not for iteration {state.iteration}"
        if final.exists():
            if _manifest(final) is not None:
                raise CheckpointError(f"{final}: holds a complete checkpoint, which is not overwritten")
            self._put_aside(final)
        written = write_hashed(temporary / STATE_FILE, [state.to_json().encode()])
        manifest = Manifest(files={**files, STATE_FILE: written}, evaluation=evaluation or {})
        try:
            manifest.check_sizes(temporary)
        except DamageError as error:
            raise CheckpointError(f"{temporary}: {error}") from error
        manifest.write(temporary)
        for folder in (*(path for path in temporary.rglob("*") if path.is_dir()), temporary):
            sync(folder)
        temporary.rename(final)
        sync(self._root)
        keep_rows(self._log, lambda row: row["iteration"] < state.iteration)
        append_rows(self._log, [{"iteration": state.iteration, "bytes": manifest.num_bytes, **(seconds or {})}])
        self._retire()
        return final

    def latest(self) -> tuple[Path, RunState] | None:
        """The newest checkpoint that is as it was written, every byte of it read; None where there was never one.

        Newer damaged ones are listed in `skipped`. ResumeError where all that were written are gone or
        damaged, or another version of the program wrote them.
        """
        skipped, found, self._damaged = [], None, []
        for folder in _newest_first(self._root):
            try:
                Manifest.read(folder).check(folder)
            except DamageError as error:
                self._damaged.append(folder)
                skipped.append(f"checkpoint {folder} is skipped: {error}")
            else:
                found = folder, _state_in(folder)
                break
        if found is None and (skipped or self._log.exists()):
            raise ResumeError(self._nothing_usable(skipped))
        self.skipped = tuple(skipped)
        return found

    def _nothing_usable(self, skipped: list[str]) -> str:
        there = "; ".join(line.removeprefix("checkpoint ").replace(" is skipped", "", 1) for line in skipped)
        if not there:
            rows = read_rows(self._log)
            last = f"the last was written after {rows[-1]['iteration']} iterations" if rows else "some were written"
            there = f"there is none in {self._root}, and {last}"
        return f"resume=true: no checkpoint can be used: {there}; {OTHER_REMEDY}"

    def _retire(self) -> None:
        """Deletes complete checkpoints but the newest and the best; others are left alone."""
        complete = [(folder, manifest) for folder in _newest_first(self._root) if (manifest := _manifest(folder))]
        kept = {folder for folder, _ in complete[: self._keep_last]}
        if self._keep_best is not None:
            rated = [
                (manifest.evaluation[self._keep_best], folder)
                for folder, manifest in reversed(complete)
                if self._keep_best in manifest.evaluation
            ]
            if rated:
                kept.add(max(rated, key=lambda pair: pair[0])[1])  # of equal ones the oldest
        for folder, _ in complete:
            if folder not in kept:
                # Renamed first, so that a crash during the deletion leaves a temporary folder and no broken checkpoint.
                shutil.rmtree(folder.rename(self._root / f"{TEMPORARY_PREFIX}deleted-{folder.name}"))

    def _put_aside(self, folder: Path) -> None:
        number = 1
        while (aside := folder.with_name(f"{folder.name}{DAMAGED_SUFFIX}-{number}")).exists():
            number += 1
        folder.rename(aside)


def _newest_first(root: Path) -> list[Path]:
    folders = [path for path in root.glob("iteration-*") if re.fullmatch(r"iteration-\d{6,}", path.name)]
    return sorted(folders, key=lambda folder: int(folder.name.removeprefix("iteration-")), reverse=True)


def _state_in(folder: Path) -> RunState:
    """The state in a folder that is as it was written; what cannot be read there has another program written."""
    path = folder / STATE_FILE
    try:
        return RunState.from_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResumeError(f"{path}: {error}; {REMEDY}") from error


def _folder_name(iteration: int) -> str:
    return f"iteration-{iteration:06d}"


def _manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder whose files are there in their sizes; None where something is missing."""
    try:
        manifest = Manifest.read(folder)
        manifest.check_sizes(folder)
    except DamageError:
        return None
    return manifest
