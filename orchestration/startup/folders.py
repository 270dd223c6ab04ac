"""Folders that a command is going to write: created, numbered, and removed again where nothing was written.

In: a path and the setting that names it. Out: the folder, or a ConfigError in one line that says why it cannot be
written. Knows nothing of what the folders hold.
"""

import errno
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from configs.loading import ConfigError
from configs.mistakes import shown

FORBIDDEN, FILE, FULL = "this user may not write there", "it is, or lies below, a file", "no room is left there"
REASONS = {
    errno.EACCES: FORBIDDEN,
    errno.EPERM: FORBIDDEN,
    errno.EEXIST: FILE,
    errno.ENOTDIR: FILE,
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EROFS: "the file system is read-only",
    errno.ENAMETOOLONG: "the name is longer than the file system allows",
}


@contextmanager
def refusing_unwritable(what: str) -> Iterator[None]:
    """Turns an OSError inside the block into the ConfigError of a path that cannot be written; what: as run_dir=x."""
    try:
        yield
    except OSError as error:
        reason = REASONS.get(error.errno or 0) or " ".join(str(error.strerror or error).split())
        name = shown(what) if error.errno == errno.ENAMETOOLONG else what
        raise ConfigError([f"{name}: cannot be written, because {reason}; name another one"]) from error


def create(folder: Path) -> tuple[Path, ...]:
    """Creates the folder with those above it; returns the new ones, innermost first. A failure leaves none."""
    folder = folder.absolute()
    missing = tuple(each for each in (folder, *folder.parents) if not each.exists())
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        remove_empty(missing)
        raise
    return missing


def next_free(root: Path, stem: str) -> tuple[Path, ...]:
    """Creates root/<stem>-NNN, one above the highest number in use; returns it, and new ones above it."""
    above = create(root)
    number = max(numbered(root, stem), default=0) + 1
    while True:
        folder = (root / f"{stem}-{number:03d}").absolute()
        try:
            folder.mkdir()
        except FileExistsError:  # a run that started at the same moment took the number
            number += 1
        else:
            return (folder, *above)


def numbered(root: Path, stem: str) -> dict[int, Path]:
    """The folders root/<stem>-NNN by their numbers."""
    pattern = re.compile(re.escape(stem) + r"-(\d{3,})")
    matches = ((pattern.fullmatch(folder.name), folder) for folder in (root.iterdir() if root.is_dir() else ()))
    return {int(match[1]): folder for match, folder in matches if match}


def is_empty(folder: Path) -> bool:
    """Whether the folder has no files but hidden ones, such as those of its owner."""
    return all(path.name.startswith(".") for path in folder.iterdir())


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes those of the folders that hold nothing; innermost first."""
    for folder in folders:
        with suppress(OSError):  # it holds something, or was never created
            folder.rmdir()
