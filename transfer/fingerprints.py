"""Files with fingerprints: written and hashed in one pass, and read again to compare.

In: a path, and the content as blocks of bytes. Out: a Fingerprint, which is JSON in a manifest. The hash is xxh3_128,
which finds damage down to a single bit and is no protection against forgery. Knows nothing of formats.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

BLOCK_BYTES = 8 * 2**20  # bytes that are hashed while they are in the processor's cache, and written next


@dataclass(frozen=True, kw_only=True, slots=True)
class Fingerprint:
    """Size and hash of a file."""

    num_bytes: int
    xxh3_128: str  # hexadecimal

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Fingerprint":
        """The fingerprint that to_json() gave; TypeError where a field is missing or unknown."""
        return cls(**content)


def write_hashed(path: Path, content: Iterable[bytes | memoryview]) -> Fingerprint:
    """Creates the file from blocks of bytes; it is on the disk once this returns. OSError names the path."""
    digest, num_bytes = xxhash.xxh3_128(), 0
    try:
        with path.open("wb") as file:
            for block in _small(content):
                digest.update(block)
                file.write(block)
                num_bytes += len(block)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    return Fingerprint(num_bytes=num_bytes, xxh3_128=digest.hexdigest())


def fingerprint_of(path: Path) -> Fingerprint:
    """Reads the whole file."""
    digest, num_bytes = xxhash.xxh3_128(), 0
    buffer = memoryview(bytearray(BLOCK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            num_bytes += count
    return Fingerprint(num_bytes=num_bytes, xxh3_128=digest.hexdigest())


def size_of(path: Path) -> int | None:
    """Bytes of the file; None where there is none."""
    return path.stat().st_size if path.is_file() else None


def _small(content: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
    for block in content:
        view = memoryview(block)
        yield from (view[start : start + BLOCK_BYTES] for start in range(0, len(view), BLOCK_BYTES))
