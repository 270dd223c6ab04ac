"""Folders of a run: room for the checkpoints that exist at a time, variables that decide, paths of sockets."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from configs.loading import load_config
from configs.schema import RunConfig
from orchestration.startup.checks import folders
from orchestration.startup.checks.folders import LITTLE_BYTES, Folder, check_folder, other_folders, run_folder
from orchestration.startup.checks.result import Check
from rollout.tasks.embedded_model import EmbeddedRecipe

AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
SIZES = {"checkpoint_bytes": 10e9, "model_bytes": 1e9}


@pytest.fixture(autouse=True)
def _usual_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("TMPDIR", "RAY_TMPDIR", "SOFTGATE_CACHE", "VLLM_CACHE_ROOT", "HF_HOME", *AUTHENTICATION):
        monkeypatch.delenv(name, raising=False)


def free(patch: pytest.MonkeyPatch, num_bytes: float) -> None:
    patch.setattr(folders, "disk_usage", lambda path: SimpleNamespace(free=int(num_bytes)))


@pytest.mark.parametrize(
    ("settings", "checkpoints"),
    [
        (["checkpoint.every=10", "num_iterations=60"], 3),  # two are kept, and a third is written before one goes
        (["checkpoint.every=10", "num_iterations=20"], 2),
        (["checkpoint.every=10", "num_iterations=5"], 1),
        (["checkpoint.every=1", "num_iterations=60", "checkpoint.keep_last=5"], 6),
    ],
)
def test_room_for_the_checkpoints_that_exist_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], checkpoints: int
) -> None:
    needed = checkpoints * 10e9 + 1e9 + LITTLE_BYTES
    for available, is_enough in ((needed, True), (needed - 1, False)):
        free(monkeypatch, available)
        check = run_folder(load_config([*settings, "run_dir=x"]), tmp_path / "x", **SIZES)
        assert (check.mistakes == ()) == is_enough, check


def test_a_resumed_run_counts_the_checkpoints_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (10, 20):
        (tmp_path / "checkpoints" / f"iteration-{number:06d}").mkdir(parents=True)
    free(monkeypatch, 12e9)
    assert run_folder(load_config(["resume=true"]), tmp_path, **SIZES).mistakes == ()
    assert run_folder(load_config([]), tmp_path, **SIZES).mistakes != ()


def test_nothing_is_made_or_left(tmp_path: Path) -> None:
    check = check_folder(Folder(name="x", path=tmp_path / "a" / "b", purpose="p", remedy="r"))
    assert check.mistakes == ()
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_leads_nowhere_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (line,) = check_folder(Folder(name="x", path=tmp_path / "link" / "a", purpose="p", remedy="r")).mistakes
    assert "cannot be written, because it is, or lies below, a file; r" in line


@pytest.mark.parametrize("error", [PermissionError(13, "denied"), OSError(30, "read-only"), OSError(28, "full")])
def test_what_the_system_refuses_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def refuse(**_: object) -> None:
        raise error

    monkeypatch.setattr(folders.tempfile, "TemporaryFile", refuse)
    (line,) = check_folder(Folder(name="HOME=/h", path=tmp_path / "c", purpose="p", remedy="r")).mistakes
    reason = {13: "this user may not write there", 30: "the file system is read-only", 28: "no room is left there"}
    assert line == f"HOME=/h: {tmp_path / 'c'} cannot be written, because {reason[error.errno or 0]}; r"


def found(config: RunConfig, *, is_local: bool = True) -> dict[str, Check]:
    return {check.name: check for check in other_folders(config, is_local=is_local, downloaded_bytes=None)}


def test_only_folders_that_the_run_needs_are_looked_at(tmp_path: Path) -> None:
    compiles = load_config(["rollout.enforce_eager=false"])
    assert list(found(compiles)) == [
        "the embedded model",
        "temporary files",
        "Ray's logs and sockets",
        "Ray's token",
        "what vLLM compiles",
    ]
    assert list(found(compiles, is_local=False)) == ["the embedded model", "temporary files"]
    assert list(found(load_config(["model.path=/m"]))) == ["temporary files", "Ray's logs and sockets", "Ray's token"]


@pytest.mark.parametrize("setting", ["RAY_AUTH_MODE=disabled", "RAY_AUTH_TOKEN=abc", "RAY_AUTH_TOKEN_PATH=/t"])
def test_ray_makes_a_token_only_where_it_needs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    (line,) = found(load_config(["model.path=/m"]))["Ray's token"].mistakes
    assert line.endswith("; set HOME to a folder that can be written, or RAY_AUTH_TOKEN to a token")
    monkeypatch.setenv(*setting.split("=", 1))
    assert "Ray's token" not in found(load_config(["model.path=/m"]))
    monkeypatch.delenv(setting.partition("=")[0])
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("abc")
    assert "Ray's token" not in found(load_config(["model.path=/m"]))


def test_a_model_that_is_built_already_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache" / "models" / EmbeddedRecipe().hash()).mkdir(parents=True)
    monkeypatch.setenv("SOFTGATE_CACHE", str(tmp_path / "cache"))
    free(monkeypatch, 0)
    assert found(load_config([]))["the embedded model"].mistakes == ()


def test_the_longest_socket_just_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    for length, fits in ((39, True), (40, False)):  # 107 bytes, less `/ray/` and the session's longest socket
        monkeypatch.setenv("RAY_TMPDIR", "/tmp/".ljust(length, "x"))
        assert (found(load_config([]))["Ray's logs and sockets"].mistakes == ()) == fits, length


def test_a_user_without_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    (line,) = found(load_config([]))["the embedded model"].mistakes
    assert line.startswith("HOME: Could not determine home directory, where the embedded model would be; set HOME or ")
