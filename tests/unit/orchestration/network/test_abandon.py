"""The end of a command whose Ray does not answer: it kills what writes into Ray's folder, and leaves with status 1."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import pathlib, subprocess, sys
from orchestration.network.abandon import abandon_ray
folder = pathlib.Path(sys.argv[1])
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
writers = [subprocess.Popen(sleep, stderr=(folder / "raylet.err").open("w")) for _ in range(2)]
other = subprocess.Popen(sleep)
abandon_ray(folder)
print(*(process.wait(timeout=60) for process in writers), other.poll())
other.kill()
"""


def test_what_writes_into_the_folder_is_killed_and_nothing_else(tmp_path: Path) -> None:
    link = tmp_path / "link"
    (tmp_path / "session").mkdir()
    link.symlink_to(tmp_path / "session")
    command = subprocess.run([sys.executable, "-c", PROGRAM, str(link)], capture_output=True, text=True)
    assert command.stdout.split() == ["-9", "-9", "None"], command.stderr
    assert command.returncode == 1
