"""A disk of a few megabytes that tests fill: a tmpfs that only its own processes see, and that ends with its holder."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

BALLAST = "ballast"
SOURCE = "softgate"  # name that the list of mounts shows
IS_ROOT = os.geteuid() == 0
# mount wants an administrator, which everybody is in a user namespace of his own
UNSHARE = ["unshare", "--mount", *([] if IS_ROOT else ["--map-root-user"])]
ENTER = ["nsenter", "--mount", *([] if IS_ROOT else ["--user", "--preserve-credentials"])]


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallDisk:
    """A disk, mounted at a path that is an empty folder for everybody else."""

    path: Path  # as its own processes name it
    holder: int  # process id

    def command(self, words: list[str], *, folder: Path) -> list[str]:
        """The command in front of which the disk is mounted, started in the folder."""
        return [*ENTER, f"--target={self.holder}", "--", "env", f"--chdir={folder}", *words]

    def seen(self, path: Path) -> Path:
        """The path on the disk as this process names it."""
        return Path(f"/proc/{self.holder}/root{path}")

    def fill(self, *, leaving: int = 0) -> None:
        """Leaves so many bytes free."""
        disk = os.statvfs(self.seen(self.path))
        with self.seen(self.path / BALLAST).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - leaving)

    def make_read_only(self) -> None:
        remount = ["mount", "-o", "remount,ro", SOURCE, str(self.path)]
        subprocess.run(self.command(remount, folder=Path("/")), check=True)

    def make_room(self) -> None:
        self.seen(self.path / BALLAST).unlink()


@contextmanager
def small_disk(path: Path, *, megabytes: int) -> Iterator[SmallDisk]:
    """Mounts it at a new folder."""
    path.mkdir()
    mount = f'mount -t tmpfs -o size={megabytes}m {SOURCE} "$0" && echo mounted && exec cat'  # until its stdin ends
    with subprocess.Popen(
        [*UNSHARE, "sh", "-c", mount, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mounted\n", "a tmpfs must be mounted: as root, or in a user namespace"
        yield SmallDisk(path=path, holder=holder.pid)
