"""A file that is written atomically is the old one or the new one, whenever the program stops."""

import errno
import os
from pathlib import Path

import pytest

from configs import files
from configs.files import write_atomically


def test_text_and_bytes_replace_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    write_atomically(path, b"\x00\n")
    assert path.read_bytes() == b"\x00\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [1, 2])
def test_a_stop_at_either_sync_leaves_a_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    synced: list[int] = []

    def stop(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == number:
            raise OSError("stopped")

    monkeypatch.setattr(files.os, "fsync", stop)
    with pytest.raises(OSError, match="stopped"):
        write_atomically(path, "new")
    assert path.read_text() == ("old" if number == 1 else "new")


def test_content_is_on_the_disk_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []  # whether a folder was synced, and whether the new file had its name by then
    path = tmp_path / "a.txt"

    def record(descriptor: int) -> None:
        is_folder = Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_dir()
        seen.append((is_folder, path.exists()))

    monkeypatch.setattr(files.os, "fsync", record)
    write_atomically(path, "new")
    assert seen == [(False, False), (True, True)]


def test_an_error_of_the_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", stop)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(tmp_path / "a.txt", "new")
    assert caught.value.filename == str(tmp_path / "a.txt")
