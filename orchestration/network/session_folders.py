"""Folders of Ray's sessions in its temp folder: sockets, logs and spilled objects, some megabytes a run.

In: the folder of a Ray that this process started. Out: no folder after a run that ended well or was interrupted; that
of a failed run stays for a day, for its logs. What killed runs left, the next run removes. Folders of others stay.
"""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

MARKER = "softgate.lock"  # file in a session's folder, locked while its run lives; not empty once the run has failed
FAILED = "failed\n"
KEPT_S = 24 * 3600.0
REMOVAL_TIMEOUT_S = 5.0  # Ray's processes write for a moment after they are told to end
SESSION_LINK = "session_latest"

logger = logging.getLogger(__name__)


@contextmanager
def session_folder(folder: Path) -> Iterator[None]:
    """Holds the folder of a Ray that ends within the block; removes it at the end, and what earlier runs left there."""
    with (folder / MARKER).open("a+") as marker:
        _lock(marker)
        remove_left_behind(folder.parent)
        has_failed = False
        try:
            yield
        except Exception:
            has_failed = True
            marker.write(FAILED)
            logger.warning("Ray's logs of this run are in %s/logs for a day", folder)
            raise
        finally:
            if not has_failed:
                _remove(folder)
            remove_left_behind(folder.parent)  # of a killed run whose processes were still writing at the start


def folders_of_this_process(root: Path) -> set[Path]:
    """Folders below Ray's temp folder of the Rays that a process of this number has started."""
    return set(root.glob(f"session_*_{os.getpid()}"))


def settle_failed_start(folders: Iterable[Path], *, is_kept: bool) -> None:
    """Removes the folders of a start that has failed, whose processes have ended; kept ones stay for a day."""
    for folder in folders:
        if is_kept:
            with suppress(OSError):  # a full disk, which may be why
                (folder / MARKER).write_text(FAILED)
        else:
            _remove(folder)


def remove_left_behind(root: Path) -> None:
    """Removes the folders of softgate's runs below Ray's temp folder that have ended, if they failed a day ago."""
    for path in root.glob(f"session_*/{MARKER}"):
        # of a living run, of another user, or removed by another run at this moment
        with suppress(OSError), path.open("r+") as marker:
            _lock(marker)
            if marker.read() == "" or time.time() - path.stat().st_mtime > KEPT_S:
                _remove(path.parent)


def _lock(marker: IO[str]) -> None:
    """BlockingIOError where another process holds the lock; it ends with the process, however that ends."""
    fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove(folder: Path) -> None:
    """Removes the folder, and its marker last: what is left after the time-out is found again by it."""
    deadline, marker = time.monotonic() + REMOVAL_TIMEOUT_S, folder / MARKER
    while folder.exists() and time.monotonic() < deadline:
        with suppress(OSError):  # written at this moment, or another user's
            for path in folder.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                elif path != marker:
                    path.unlink()
            if list(folder.iterdir()) in ([], [marker]):
                marker.unlink(missing_ok=True)
                folder.rmdir()
    link = folder.parent / SESSION_LINK
    if link.is_symlink() and not link.exists():
        link.unlink(missing_ok=True)
