"""Each mistake of mistakes/ as a command: what it prints, that it ends with status 2, and that nothing is started."""

from pathlib import Path

import pytest
import ray
from mistakes.page import MISTAKES, PAGE, page
from mistakes.rows import Mistake, is_told

CHANGED_VARIABLES = (
    "RAY_AUTH_MODE",
    "RAY_AUTH_TOKEN",
    "RAY_AUTH_TOKEN_PATH",
    "GLOO_SOCKET_IFNAME",
    "RAY_ADDRESS",
    "RAY_TMPDIR",
    "TMPDIR",
    "SOFTGATE_CACHE",
    "VLLM_CACHE_ROOT",
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to give the command in, with a home of its own; Ray must not start."""
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in CHANGED_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was started"))
    return tmp_path


@pytest.mark.parametrize(
    "mistake", [pytest.param(each, id=each.typed) for of_kind in MISTAKES.values() for each in of_kind]
)
def test_a_mistake_is_told_line_by_line(
    mistake: Mistake, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if mistake.given is not None:
        mistake.given.prepare(monkeypatch)
    before = {path: path.is_dir() for path in project.rglob("*")}
    printed = mistake.answer(capsys, project)
    assert len(printed) == len(mistake.lines), printed
    for expected, line in zip(mistake.lines, printed, strict=True):
        assert is_told(expected, line), line
    left = [path for path in project.rglob("*") if path not in before and path.suffix != ".pyc"]
    assert [path for path in left if path.name != "__pycache__"] == []


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `PYTHONPATH=.:tests:tests/unit python -m mistakes.page`"


def test_a_line_is_told_apart_from_another() -> None:
    assert is_told("a=…: no (…); b", "a=1: no (never); b")
    assert not is_told("a=…: no", "b=1: no")
    assert not is_told("a=1: no", "a=1: no, never")
