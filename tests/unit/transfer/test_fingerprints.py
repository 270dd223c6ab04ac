"""Fingerprints: of what is written and of what is read they are the same, and any difference shows."""

import os
from pathlib import Path

import pytest
import xxhash

from transfer.fingerprints import BLOCK_BYTES, Fingerprint, fingerprint_of, size_of, write_hashed


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1])
def test_what_was_written_is_what_is_read(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    written = write_hashed(tmp_path / "file", [b"head", memoryview(content)])
    assert (tmp_path / "file").read_bytes() == b"head" + content
    expected = Fingerprint(num_bytes=size + 4, xxh3_128=xxhash.xxh3_128(b"head" + content).hexdigest())
    assert written == fingerprint_of(tmp_path / "file") == expected
    assert Fingerprint.from_json(written.to_json()) == written


def test_a_write_that_fails_names_the_file() -> None:
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write_hashed(Path("/dev/full"), [b"x"])


def test_a_size_is_that_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    assert [size_of(path) for path in (tmp_path / "a", tmp_path / "b", tmp_path)] == [1, None, None]
