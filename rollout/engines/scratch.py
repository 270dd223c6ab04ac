"""A temporary folder of one engine, for the files that vLLM and its processes leave behind when they are killed.

Such as its rendezvous file vllm_dist_*. In: the machine's temporary folder. Out: a folder below it, removed with its
engine, or else by the next engine that starts on the machine: a lock on the folder, which the kernel gives back, shows
whether its engine lives.
"""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

PREFIX = "softgate-engine-"
NEW_PREFIX = ".softgate-new-"  # a folder that is not locked yet


def use_own_temporary_folder() -> None:
    """Makes a new folder the temporary one of this process and its children, and removes those of dead engines."""
    root = Path(tempfile.gettempdir())
    remove_abandoned(root)
    new = Path(tempfile.mkdtemp(prefix=NEW_PREFIX, dir=root))
    with suppress(OSError):  # where locks do not exist no other engine can take one either, so the folder stays
        fcntl.flock(os.open(new, os.O_RDONLY | os.O_DIRECTORY), fcntl.LOCK_EX | fcntl.LOCK_NB)  # until the process ends
    folder = new.rename(root / new.name.replace(NEW_PREFIX, PREFIX))
    # torch keeps compiled kernels for all processes in the temporary folder: theirs stays where it was.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(root / f"torchinductor_{os.getuid()}"))
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def remove_own_temporary_folder() -> None:
    """Removes it and goes back to the machine's; does nothing where this process has none of its own."""
    folder = Path(tempfile.gettempdir())
    if folder.name.startswith(PREFIX):
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder.parent)
        shutil.rmtree(folder, ignore_errors=True)  # a process that is ending may still write there


def remove_abandoned(root: Path) -> None:
    """Removes the folders below root whose engines have ended."""
    for folder in root.glob(f"{PREFIX}*"):
        with suppress(OSError):  # locked by a living engine, another user's, or removed meanwhile
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(descriptor)
