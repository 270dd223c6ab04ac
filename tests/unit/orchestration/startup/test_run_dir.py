"""Which folder a run takes, what it is refused for, and that a refused run leaves nothing."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from configs.loading import ConfigError, dump_yaml, load_config
from configs.schema import RunConfig
from orchestration.startup.folders import refusing_unwritable
from orchestration.startup.ownership import own
from orchestration.startup.run_dir import own_run_dir

ROOT = Path(__file__).resolve().parents[4]
RUN = ROOT / "orchestration" / "run.py"
NOBODY = 65534


def config(**fields: Any) -> RunConfig:
    return RunConfig.model_validate({"gate": {"name": "softsign"}, "task": {"name": "arithmetic"}, "seed": 3, **fields})


@contextmanager
def begun(config: RunConfig, **more: Path) -> Iterator[Path]:
    """A run that has written something into its folder."""
    with own_run_dir(config, **more) as owned:
        assert owned.notices == ()
        (owned.folder / "run.log").touch()
        yield owned.folder


def refusal(config: RunConfig, **more: Path) -> str:
    with pytest.raises(ConfigError) as caught, own_run_dir(config, **more):
        pass
    (line,) = caught.value.lines
    assert "\n" not in line
    return line


def hold_run(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").touch()


def test_new_runs_take_the_next_number(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    with begun(config(), root=root) as first, begun(config(), root=root) as second:
        assert [first.name, second.name] == ["arithmetic-softsign-seed3-001", "arithmetic-softsign-seed3-002"]
    with begun(config(gate={"name": "clip"}), root=root) as other:
        assert other == root / "arithmetic-clip-seed3-001"
    assert sorted(path.name for path in first.iterdir()) == ["run.log"], "nothing of the ownership is left"


def test_numbers_of_deleted_runs_below_the_highest_are_not_used_again(tmp_path: Path) -> None:
    (tmp_path / "arithmetic-softsign-seed3-999").mkdir()
    for number in (1000, 1001):
        with begun(config(), root=tmp_path) as folder:
            assert folder.name == f"arithmetic-softsign-seed3-{number}"


def test_resume_takes_the_newest_folder_that_holds_a_run(tmp_path: Path) -> None:
    hold_run(tmp_path / "arithmetic-softsign-seed3-009")
    hold_run(tmp_path / "arithmetic-softsign-seed3-010")
    hold_run(tmp_path / "arithmetic-softsign-seed30-011")
    (tmp_path / "arithmetic-softsign-seed3-012").mkdir()
    with begun(config(resume=True), root=tmp_path) as folder:
        assert folder.name == "arithmetic-softsign-seed3-010"


def test_resume_without_a_run_is_refused_and_creates_nothing(tmp_path: Path) -> None:
    line = refusal(config(resume=True), root=tmp_path / "absent")
    assert line.startswith("resume=true: no run at ")
    assert "arithmetic-softsign-seed3" in line
    for folder in (tmp_path, tmp_path / "absent"):
        assert "holds no run to resume" in refusal(config(resume=True, run_dir=str(folder)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["metrics.jsonl", "checkpoints"])
def test_a_folder_that_holds_a_run_needs_a_resume(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "deep" / "mine"
    with begun(config(run_dir=str(folder))) as created:
        assert created == folder
    with begun(config(run_dir=str(folder))):
        (folder / content).mkdir()  # now it holds a run
    assert "set resume=true to continue it" in refusal(config(run_dir=str(folder)))
    with begun(config(run_dir=str(folder), resume=True)) as resumed:
        assert resumed == folder


@pytest.mark.parametrize("run_dir", ["auto", "deep/mine"])
def test_a_start_that_is_refused_later_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_dir: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError), begun(config(run_dir=run_dir)):
        raise ConfigError(["no such data"])
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_fails_keeps_its_log(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), begun(config(run_dir=str(tmp_path / "mine"))):
        raise RuntimeError("no Ray")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["run.log"]


def test_the_folder_of_a_recording_has_one_owner_too(tmp_path: Path) -> None:
    settings = [config(run_dir=str(tmp_path / name), rollout={"record": str(tmp_path / "record")}) for name in "ab"]
    with begun(settings[0]):
        assert refusal(settings[1]).startswith(f"rollout.record={tmp_path / 'record'}: is in use by process ")
        assert not (tmp_path / "b").exists()


def unwritable(tmp_path: Path) -> dict[str, tuple[Path, str]]:
    """Folders that cannot be written, with the reason."""
    (tmp_path / "file").touch()
    return {
        "a file": (tmp_path / "file", "it is, or lies below, a file"),
        "below a file": (tmp_path / "file" / "run", "it is, or lies below, a file"),
        "long name": (tmp_path / "new" / ("x" * 300), "the name is longer than the file system allows"),
        "long path": (tmp_path / "new" / "/".join(["x" * 99] * 50), "the name is longer than the file system allows"),
        "no folder of files": (Path("/proc/softgate"), "because "),
    }


@pytest.mark.parametrize("kind", ["a file", "below a file", "long name", "long path", "no folder of files"])
@pytest.mark.parametrize("setting", ["run_dir", "rollout.record"])
def test_a_folder_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path, kind: str, setting: str) -> None:
    folder, reason = unwritable(tmp_path)[kind]
    mine = str(tmp_path / "mine")
    if setting == "run_dir":
        line = refusal(config(run_dir=str(folder)))
    else:
        line = refusal(config(run_dir=mine, rollout={"record": str(folder)}))
    assert line.startswith(f"{setting}={folder}"[:50])
    assert ": cannot be written, because " in line
    assert reason in line
    assert len(line) < 250
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "what was created on the way is gone again"


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.EROFS, "the file system is read-only"),
        (errno.ENOSPC, "no room is left there"),
        (errno.EDQUOT, "no room is left there"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_what_the_kernel_says_of_a_folder_is_told(number: int, reason: str) -> None:
    told = f"run_dir=x: cannot be written, because {reason}; name another one"
    with pytest.raises(ConfigError, match=told), refusing_unwritable("run_dir=x"):
        raise OSError(number, os.strerror(number))


def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """As another user, because root may write everywhere."""
    program = (
        "import os; from pathlib import Path\n"
        "from orchestration.startup.folders import create, refusing_unwritable\n"
        f"os.setuid({NOBODY}) if os.getuid() == 0 else None\n"
        "with refusing_unwritable('run_dir=x'):\n"
        f"    create(Path({str(tmp_path / 'theirs' / 'run')!r}))\n"
    )
    (tmp_path / "theirs").mkdir(mode=0o500)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300
    )
    assert ended.stderr.splitlines()[-1].endswith(
        "run_dir=x: cannot be written, because this user may not write there; name another one"
    ), ended.stderr


def test_a_check_after_the_folder_was_chosen_leaves_no_new_folder_and_the_settings_of_an_old_one(
    tmp_path: Path,
) -> None:
    settings = ("task=custom", f"task.train.mine.path={tmp_path}/missing.jsonl", "task.max_prompt_tokens=32")
    old = tmp_path / "old"
    hold_run(old)
    (old / "config.yaml").write_text(dump_yaml(load_config(settings)))
    before = (old / "config.yaml").read_bytes()
    for words in (("run_dir=" + str(tmp_path / "new"),), (f"run_dir={old}", "resume=true", "rollout.num_engines=2")):
        whole = [sys.executable, str(RUN), *settings, *words]
        ended = subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert ended.returncode == 2, ended.stderr
        assert "missing.jsonl: no such file" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (old / "config.yaml").read_bytes() == before


def refused_command(folder: Path, command: str, *more: str) -> str:
    """The one line with which the command refuses the folder, without its setting."""
    words, setting = {
        "run": ([str(RUN)], "run_dir"),
        "study": (["-m", "orchestration.study", "gates=[clip]", "seeds=[0]"], "study_dir"),
        "evaluate": (["-m", "orchestration.evaluate", "model=embedded"], "out"),
    }[command]
    whole = [sys.executable, *words, f"{setting}={folder}", *more]
    ended = subprocess.run(whole, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (ended.returncode, ended.stdout) == (2, ""), ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"{setting}={folder}: ")
    return line.removeprefix(f"{setting}={folder}: ")


@pytest.mark.parametrize("command", ["run", "study", "evaluate"])
def test_each_command_refuses_a_folder_that_cannot_be_written(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    line = refused_command(tmp_path / "file" / "here", command)
    assert line == "cannot be written, because it is, or lies below, a file; name another one"


@pytest.mark.parametrize(("command", "more"), [("run", "resume=true"), ("evaluate", "num_prompts=2")])
def test_each_command_refuses_the_folder_of_a_living_one_and_changes_nothing(
    tmp_path: Path, command: str, more: str
) -> None:
    hold_run(tmp_path / "mine")
    with own(tmp_path / "mine", setting="run_dir"):
        before = sorted(path.name for path in (tmp_path / "mine").iterdir())
        assert refused_command(tmp_path / "mine", command, more).startswith(f"is in use by process {os.getpid()} on ")
        assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == before
