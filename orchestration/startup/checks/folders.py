"""Folders that a run writes to: whether they can be made and written, have room, and paths that are short enough.

In: the configuration, the sizes of a checkpoint and of the model, the environment. Out: one Check a folder. A file
without a name is written for a moment into the nearest folder that exists; no folder is made.
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from shutil import disk_usage

from rich.filesize import decimal

from configs.mistakes import shown
from configs.schema import RunConfig
from orchestration.journal.run_files import CHECKPOINT_FOLDER
from orchestration.startup.checks.result import Check, reason_of
from orchestration.startup.folders import REASONS
from rollout.tasks.embedded_model import EmbeddedRecipe, default_cache_dir

PROBE_BYTES = 4096  # bytes written to find out whether they may be and have room
LITTLE_BYTES = 64 * 10**6  # room for the logs and caches of a run
MAX_SOCKET_BYTES = 107  # longest path of a Unix socket, in bytes
# longest names of sockets that Ray makes below its temporary folder, and vLLM in the system's
RAY_SOCKET = "session_2000-01-01_00-00-00_000000_1234567/sockets/plasma_store"
VLLM_SOCKET = "softgate-engine-xxxxxxxx/00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """A folder that a run writes to."""

    name: str  # setting or variable that decides where it is, with its value
    path: Path
    purpose: str
    remedy: str
    needed_bytes: float = LITTLE_BYTES
    socket: str = ""  # longest name of a socket below it


def run_folder(config: RunConfig, path: Path, *, checkpoint_bytes: float, model_bytes: float) -> Check:
    """Check of a run's own folder, with room for the checkpoints that exist at a time and for the final model."""
    saving = config.checkpoint
    kept = saving.keep_last + (saving.keep_best is not None)
    most = min(kept + 1, ceil(config.num_iterations / saving.every))
    present = len(list((path / CHECKPOINT_FOLDER).glob("iteration-*"))) if config.resume else 0
    number = max(most - present, 1)  # a checkpoint is written before an older one is deleted
    return check_folder(
        Folder(
            name=f"run_dir={config.run_dir}",
            path=path,
            purpose=f"{number} checkpoint(s) and the model",
            remedy="name another one",
            needed_bytes=number * (checkpoint_bytes + saving.pretrained * model_bytes) + model_bytes + LITTLE_BYTES,
        )
    )


def other_folders(config: RunConfig, *, is_local: bool, downloaded_bytes: float | None) -> Iterator[Check]:
    """Checks of the recording's folder and of those that libraries write to on this machine.

    is_local: the run starts a Ray of its own. downloaded_bytes: of the model where it comes from the hub, else None.
    """
    if config.rollout.record is not None:
        name, path = f"rollout.record={config.rollout.record}", Path(config.rollout.record)
        yield check_folder(Folder(name=name, path=path, purpose="recorded groups", remedy="name another one"))
    if config.model.path == "embedded":
        yield _embedded_cache()
    if downloaded_bytes is not None:
        yield _home_folder("HF_HOME", ".cache/huggingface", purpose="the model from the hub", needed=downloaded_bytes)
    yield _temporary(config)
    if is_local:
        variable, root = ray_temp_root()
        yield check_folder(
            Folder(
                name=variable,
                path=root / "ray",
                purpose="Ray's logs and sockets",
                remedy="set RAY_TMPDIR to a short path that can be written",
                socket=RAY_SOCKET,
            )
        )
        yield from _ray_token()
    # A vLLM that compiles ends at its start where it cannot make folders there; an eager one logs it and goes on (vLLM
    # 0.32 on a CPU).
    if is_local and config.rollout.has_engines and not config.rollout.enforce_eager:
        yield _home_folder("VLLM_CACHE_ROOT", ".cache/vllm", purpose="what vLLM compiles")


def _ray_token() -> Iterator[Check]:
    """Check of the folder in which Ray makes a token for its own processes, where it has none yet."""
    given = any(os.environ.get(variable) for variable in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if given or os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return
    purpose = "Ray's token"
    try:
        path = Path.home() / ".ray"
    except RuntimeError as error:
        yield _homeless("RAY_AUTH_TOKEN", purpose, error)
        return
    if not (path / "auth_token").is_file():
        remedy = "set HOME to a folder that can be written, or RAY_AUTH_TOKEN to a token"
        folder = Folder(name=f"HOME={path.parent}", path=path, purpose=purpose, remedy=remedy, needed_bytes=PROBE_BYTES)
        yield check_folder(folder)


def ray_temp_root() -> tuple[str, Path]:
    """The folder in which Ray makes its folder `ray`, after the variable that decides it, as Ray itself finds it."""
    for variable in ("RAY_TMPDIR", "TMPDIR"):
        if value := os.environ.get(variable):
            return f"{variable}={value}", Path(value)
    return "RAY_TMPDIR=/tmp", Path("/tmp")


def check_folder(folder: Folder) -> Check:
    """Whether the folder can be made and written, has the room, and leaves sockets a short enough path."""
    path = folder.path.expanduser().absolute()
    try:
        free = _free_bytes(path)
    except OSError as error:
        reason = REASONS.get(error.errno or 0) or reason_of(error)
        where = "" if folder.name.endswith(f"={folder.path}") else f" {folder.path}"
        name = shown(folder.name) if error.errno == errno.ENAMETOOLONG else folder.name
        line = f"{name}:{where} cannot be written, because {reason}; {folder.remedy}"
        return Check(name=folder.purpose, found=reason, mistakes=(line,))
    mistakes = []
    if folder.socket and len(os.fsencode(path / folder.socket)) > MAX_SOCKET_BYTES:
        longest = MAX_SOCKET_BYTES - len(f"/{folder.socket}")
        mistakes.append(
            f"{folder.name}: {path} has {len(os.fsencode(path))} bytes, and sockets below it need a path of at most "
            f"{longest}; {folder.remedy}"
        )
    room = f"{decimal(free)} free in {path}, {decimal(int(folder.needed_bytes))} needed"
    if free < folder.needed_bytes:
        mistakes.append(f"{folder.name}: {room} for {folder.purpose}; make room, or {folder.remedy}")
    return Check(name=folder.purpose, found=room, mistakes=tuple(mistakes))


def _free_bytes(path: Path) -> int:
    """Free bytes where the folder is or would be made; OSError where it cannot be."""
    existing = path
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    longest = max(len(os.fsencode(part)) for part in path.parts)
    if longest > os.pathconf(existing, "PC_NAME_MAX") or len(os.fsencode(path)) > os.pathconf(existing, "PC_PATH_MAX"):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    with tempfile.TemporaryFile(dir=existing, buffering=0) as file:
        file.write(b"\0" * PROBE_BYTES)
    return disk_usage(existing).free


def _temporary(config: RunConfig) -> Check:
    purpose, remedy = "temporary files", "set TMPDIR to a folder that can be written"
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError as error:
        return Check(name=purpose, found="none", mistakes=(f"TMPDIR: {reason_of(error)}; {remedy}",))
    socket = VLLM_SOCKET if config.rollout.frontend == "async" and config.rollout.has_engines else ""
    return check_folder(
        Folder(name=f"TMPDIR={folder}", path=Path(folder), purpose=purpose, remedy=remedy, socket=socket)
    )


def _embedded_cache() -> Check:
    try:
        cache = default_cache_dir()
    except RuntimeError as error:
        return _homeless("SOFTGATE_CACHE", "the embedded model", error)
    model = cache / EmbeddedRecipe().hash()
    if model.is_dir():
        return Check(name="the embedded model", found=f"built, in {model}")
    return _cache("SOFTGATE_CACHE", cache, purpose="the embedded model")


def _home_folder(variable: str, inside: str, *, purpose: str, needed: float = LITTLE_BYTES) -> Check:
    """Check of a cache that lies where the variable says, and in HOME where it is not set."""
    try:
        path = Path(os.environ[variable]) if variable in os.environ else Path.home() / inside
    except RuntimeError as error:
        return _homeless(variable, purpose, error)
    return _cache(variable, path, purpose=purpose, needed=needed)


def _cache(variable: str, path: Path, *, purpose: str, needed: float = LITTLE_BYTES) -> Check:
    decisive = variable if variable in os.environ else "HOME"
    return check_folder(
        Folder(
            name=f"{decisive}={os.environ.get(decisive, '~')}",
            path=path,
            purpose=purpose,
            remedy=f"set {variable} to a folder that can be written",
            needed_bytes=needed,
        )
    )


def _homeless(variable: str, purpose: str, error: RuntimeError) -> Check:
    line = f"HOME: {reason_of(error)}, where {purpose} would be; set HOME or {variable}"
    return Check(name=purpose, found="no home", mistakes=(line,))
