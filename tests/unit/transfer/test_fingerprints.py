"""Fingerprints: of what is written and of what is read they are the same, and any difference shows."""

import os
from pathlib import Path

import pytest
import xxhash

from transfer.fingerprints import BLOCK_BYTES, Fingerprint, fingerprint_of, seal, size_of, write_hashed


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


def test_sealed_files_are_listed_by_their_path_below_the_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_bytes(b"bb")
    (tmp_path / "a").write_bytes(b"a")
    sealed = seal(tmp_path)
    assert {name: file.num_bytes for name, file in sealed.items()} == {"a": 1, "sub/b": 2}
    assert sealed["sub/b"] == fingerprint_of(tmp_path / "sub" / "b")
    assert size_of(tmp_path / "a") == 1
    assert size_of(tmp_path / "sub") is None
