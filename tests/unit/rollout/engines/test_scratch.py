"""The temporary folder of an engine: what is left of killed ones goes, what living ones use stays."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
ENGINE = """
import subprocess, sys, tempfile
from rollout.engines.scratch import remove_own_temporary_folder, use_own_temporary_folder
use_own_temporary_folder()
child = subprocess.run([sys.executable, "-c", "import tempfile; print(tempfile.mkdtemp(prefix='vllm_dist_'))"])
print(tempfile.gettempdir(), flush=True)
if sys.stdin.readline():
    remove_own_temporary_folder()
    print(tempfile.gettempdir(), flush=True)
"""


class Engine:
    """A process with a temporary folder of its own, in which a child of it has left something."""

    def __init__(self, root: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", ENGINE],
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.left = Path(self.process.stdout.readline().strip())
        self.folder = Path(self.process.stdout.readline().strip())


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[list[Engine]]:
    started = [Engine(tmp_path), Engine(tmp_path)]
    yield started
    for engine in started:
        engine.process.kill()
        engine.process.communicate()


def test_an_engine_removes_its_folder_and_those_of_killed_engines_only(tmp_path: Path, engines: list[Engine]) -> None:
    living, killed = engines
    assert killed.left.parent == killed.folder != living.folder
    assert killed.folder.parent == tmp_path
    killed.process.kill()
    killed.process.wait()
    assert killed.left.exists()
    third = Engine(tmp_path)
    assert not killed.folder.exists()
    assert living.left.exists()
    output, _ = third.process.communicate("end\n", timeout=300)
    assert output == f"{tmp_path}\n", "and uses the machine's folder again"
    living.process.communicate("end\n", timeout=300)
    assert list(tmp_path.iterdir()) == []
