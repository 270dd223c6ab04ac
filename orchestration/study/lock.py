"""The lock that allows one study at a time in a folder, including runs that an ended study left behind.

In: the study's folder. Out: a lock as a file descriptor that child processes inherit. Knows nothing of arms.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_FILE = ".lock"


class StudyError(RuntimeError):
    """The study cannot continue; the message is one line and says what to change."""


@contextmanager
def hold_study(study_dir: Path) -> Iterator[int]:
    """Holds the lock in this process and in every local run that inherits it, until the last of them ends."""
    descriptor = os.open(study_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(
                f"{study_dir}: a study runs here already, or a run that one left behind; wait for its end or end it"
            ) from None
        yield descriptor
    finally:
        os.close(descriptor)
