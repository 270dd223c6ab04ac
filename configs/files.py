"""Files that are replaced whole, and put on the disk: for every package that writes one.

In: a path and its new content. Out: the file. After a crash the path holds what it held before or the new content,
never a part. Knows nothing of formats.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces or creates the file, durably once this returns. One process writes a path at a time."""
    temporary = path.with_name(f".{path.name}.tmp")
    with naming(path):
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        sync(temporary)  # before the rename, which could otherwise be durable before the content
    temporary.replace(path)
    sync(path.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives an OSError inside the name of the file, which those of write and fsync do not have."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def sync(path: Path) -> None:
    """Puts a file's content, or a folder's list of files, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
