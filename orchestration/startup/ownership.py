"""One owner for a folder: while a run, an evaluation or a study lives, no other command writes into its folder.

In: a folder. Out: a context that owns it, or a ConfigError that names the owner. Two means are combined: a flock, which
the kernel gives back when its process dies and which holds on local file systems; and a lease, a file that names its
process and whose modification time is a sign of life, which holds wherever files are shared.
"""

import fcntl
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from configs.loading import ConfigError
from orchestration.startup.folders import create, refusing_unwritable, remove_empty

LOCK_FILE = ".lock"
LEASE = ".owner-"  # a lease's name is this and a number
HEARTBEAT_S = 5.0
SILENCE_S = 60.0  # time without a sign of life after which an owner on another machine counts as dead
POLL_S = 0.2
# Elsewhere a flock may fail, or hold on one machine only: NFS by its mount options, Lustre, BeeGFS, FUSE, 9p.
LOCAL_FILE_SYSTEMS = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "reiserfs", "tmpfs", "xfs", "zfs")
)


class OwnershipLostError(RuntimeError):
    """Another process has taken over this one's folder, or its lease was deleted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """A process that owns a folder, as its lease names it."""

    host: str
    process: int
    start: int  # start of the process in clock ticks after the machine's: process ids are used again
    boot: str  # id of the machine's boot
    namespace: str  # namespace of process ids; another container's ids mean nothing here
    since: str  # local time

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"


def this_process() -> Owner:
    """This process as an owner."""
    return Owner(
        host=socket.gethostname(),
        process=os.getpid(),
        start=_start_of(os.getpid()) or 0,
        boot=Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        namespace=str(Path("/proc/self/ns/pid").readlink()),
        since=time.strftime("%Y-%m-%d %H:%M:%S %z"),
    )


def interrupt(_: BaseException) -> None:
    """Interrupts the main thread as Ctrl-C does; own() raises the error in its place."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


@contextmanager
def own(
    folder: Path, *, setting: str, on_lost: Callable[[BaseException], None] = interrupt
) -> Iterator[tuple[str, ...]]:
    """Owns the folder inside the block, and creates it where it is missing; at the end removes it if it is empty.

    Yields a line for each dead owner that it is taken over from. ConfigError, within HEARTBEAT_S, where another process
    owns the folder; one that may be dead is awaited for at most SILENCE_S. Whoever is taken over, because it was
    stopped for longer, gets an OwnershipLostError: on_lost is called with it, on another thread.
    """
    with ExitStack() as undo:
        with refusing_unwritable(f"{setting}={folder}"):
            undo.callback(remove_empty, create(folder))
            is_locked = undo.enter_context(_flock(folder, setting))
            lease, dead = _claim(folder, setting, is_locked=is_locked)
        undo.callback(_release, lease)
        lost = undo.enter_context(_heartbeat(lease, setting, on_lost))
        try:
            yield tuple(f"{setting}={folder}: taken over from {owner}, which has ended or is silent" for owner in dead)
        except KeyboardInterrupt as interruption:
            raise (lost[0] if lost else interruption) from None


@contextmanager
def _flock(folder: Path, setting: str) -> Iterator[bool]:
    """Locks the folder among the processes of this machine; yields False where the file system has no such lock."""
    if file_system(folder) not in LOCAL_FILE_SYSTEMS:
        yield False
        return
    path = folder / LOCK_FILE
    while True:
        with path.open("a") as file:  # not inherited by child processes, which may outlive this one
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _in_use(folder, setting, _newest_owner(folder)) from None
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                continue  # its last owner removed it after it was opened here
            try:
                yield True
            finally:
                path.unlink(missing_ok=True)
            return


def _claim(folder: Path, setting: str, *, is_locked: bool) -> tuple[Path, list[Owner]]:
    """Creates this process's lease; returns it with the dead owners whose leases it has removed.

    Of several processes that claim at once at most one succeeds: creating a number is exclusive, and whoever finds a
    lease that it has not judged, once its own exists, withdraws.
    """
    while True:
        judged = {lease: _owner_of(lease) for lease in _leases(folder)}
        for lease, owner in judged.items():
            if not _has_ended(lease, owner, is_locked=is_locked):
                raise _in_use(folder, setting, owner)
        own_lease = folder / f"{LEASE}{max(map(_number, judged), default=0) + 1}"
        try:
            with own_lease.open("x", encoding="utf-8") as file:
                try:
                    json.dump(asdict(this_process()), file)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    own_lease.unlink()
                    raise
        except FileExistsError:
            continue
        if {*_leases(folder)} <= {own_lease, *judged}:
            for lease in judged:
                lease.unlink(missing_ok=True)
            return own_lease, [owner for owner in judged.values() if owner is not None]
        own_lease.unlink(missing_ok=True)


@contextmanager
def _heartbeat(lease: Path, setting: str, on_lost: Callable[[BaseException], None]) -> Iterator[list[BaseException]]:
    """Renews the lease's time; once the lease is gone, the list that is yielded gets an error, and then on_lost."""
    ended, lost = threading.Event(), list[BaseException]()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_S):
            try:
                os.utime(lease)  # the file server's own time, because clocks of machines differ
            except FileNotFoundError:
                owner = _newest_owner(lease.parent)
                cause = f"taken over by {owner}, after a pause of this one" if owner else "deleted"
                lost.append(OwnershipLostError(f"{setting}={lease.parent}: was {cause}; the command ends"))
                on_lost(lost[0])
                return
            except OSError:  # a file server that does not answer for now; whoever it takes for dead loses the file
                continue

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        ended.set()
        thread.join(timeout=HEARTBEAT_S)


def _release(lease: Path) -> None:
    with suppress(OSError):  # a lease that is left expires
        lease.unlink()


def _has_ended(lease: Path, owner: Owner | None, *, is_locked: bool) -> bool:
    """Whether the lease's process has ended. Waits for a sign of life of one that cannot be looked at from here.

    owner is None where the lease cannot be read: it is being written, or gone.
    """
    this = this_process()
    if owner is not None and owner.boot == this.boot:
        if owner.namespace == this.namespace:
            return _start_of(owner.process) != owner.start
        if is_locked:  # a living owner in another container on this machine would hold the lock
            return True
    try:
        return _is_silent(lease, owner)
    except FileNotFoundError:  # given back meanwhile
        return True


def _is_silent(lease: Path, owner: Owner | None) -> bool:
    """Whether the lease's time stays the same until SILENCE_S have passed since."""
    seen, probe = _changed_s(lease), lease.with_name(f"{lease.name}.{os.getpid()}")
    probe.touch()
    begin, age_s = time.monotonic(), _changed_s(probe) - seen
    probe.unlink()
    is_told = False
    while (waited_s := time.monotonic() - begin) < SILENCE_S - age_s:
        if _changed_s(lease) != seen:
            return False
        if waited_s > 2 * HEARTBEAT_S and not is_told:
            left_s = SILENCE_S - age_s - waited_s
            print(f"waiting {left_s:.0f} s for a sign of life of {owner}", file=sys.stderr, flush=True)
            is_told = True
        time.sleep(POLL_S)
    return True


def _changed_s(path: Path) -> float:
    """Time of the last change by the file server's clock; opened, because a closed file's attributes are cached."""
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_mtime


def _leases(folder: Path) -> list[Path]:
    return [path for path in folder.glob(f"{LEASE}*") if path.name.removeprefix(LEASE).isdecimal()]


def _number(lease: Path) -> int:
    return int(lease.name.removeprefix(LEASE))


def _owner_of(lease: Path) -> Owner | None:
    try:
        return Owner(**json.loads(lease.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _newest_owner(folder: Path) -> Owner | None:
    lease = max(_leases(folder), key=_number, default=None)
    return _owner_of(lease) if lease is not None else None


def _in_use(folder: Path, setting: str, owner: Owner | None) -> ConfigError:
    named = str(owner) if owner is not None else "a process that has just started"
    return ConfigError([f"{setting}={folder}: is in use by {named}; wait for its end, end it, or name another folder"])


def _start_of(process: int) -> int | None:
    """The start of a living process in clock ticks after the machine's; None where there is no such process."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[19]) if fields[0] not in "ZX" else None


def file_system(folder: Path) -> str:
    """Type of the file system that the folder lies on, such as ext4, as the kernel lists it."""
    place, found = folder.resolve(), (Path("/"), "")
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        mount, _, source = line.partition(b" - ")
        point = re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code[1], 8)]), mount.split()[4])  # a blank is \040
        path = Path(os.fsdecode(point))
        if place.is_relative_to(path) and len(path.parts) >= len(found[0].parts):
            found = (path, os.fsdecode(source.split()[0]))
    return found[1]
