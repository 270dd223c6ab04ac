"""Errors of a disk that takes no more: full, over quota, read-only, broken.

In: an exception, of this process or of an actor, whose errors arrive as text. Out: one line that names the disk.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

KINDS = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk quota exceeded",
    errno.EFBIG: "limit on the size of files reached",
    errno.EROFS: "disk read-only",
    errno.EIO: "disk error",
}
NO_ROOM_BYTES = 1 << 20  # less than any checkpoint; torch reports a full disk as a wrong position in a file


def disk_fault(error: BaseException, *, folder: Path) -> str | None:
    """One line if the error, or one that it came from, is a disk's fault, else None. folder: the run's."""
    text = " ".join(str(error).split())
    full = next((path for path in (folder, Path(tempfile.gettempdir())) if _room(path) < NO_ROOM_BYTES), None)
    for each in _with_causes(error):
        number = each.errno if isinstance(each, OSError) else None
        kind = KINDS.get(number or 0) or next((KINDS[n] for n in KINDS if os.strerror(n) in str(each)), None)
        if kind is not None and isinstance(each, OSError) and each.filename is not None:
            return f"{kind}: {each.filename} cannot be written ({each.strerror})"
        if kind is not None:
            return f"{kind}: {text}" + (f"; no room is left on the disk of {full}" if full is not None else "")
    if full is not None and isinstance(error, Exception):
        return f"{KINDS[errno.ENOSPC]}: no room is left on the disk of {full} ({text})"
    return None


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def _room(folder: Path) -> int:
    """Free bytes for us on the disk of the folder, or of the nearest folder above that exists."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free
