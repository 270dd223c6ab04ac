import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from orchestration.terminal.console import duration

ROOT = Path(__file__).parents[4]
NOISY = """
import logging, os, subprocess, sys, warnings
from pathlib import Path
from orchestration.terminal.console import print_line, redirect_output
early = logging.StreamHandler(sys.stderr)
logging.getLogger("early").addHandler(early)
print("before")
with redirect_output(Path(sys.argv[1])) as console:
    print("from print")
    print("from stderr", file=sys.stderr)
    os.write(1, b"from descriptor 1\\n")
    os.write(2, b"from descriptor 2\\n")
    subprocess.run(["echo", "from child"], check=True)
    warnings.warn("from warnings")
    logging.getLogger("late").warning("from logging")
    logging.getLogger("early").warning("from an early handler")
    print_line(console, "one line for the person, terminal: %s" % console.is_terminal)
    if len(sys.argv) > 2:
        raise OSError("engine 3 is gone")
print("after")
os.write(2, b"after on stderr\\n")
"""
CAPTURED = (
    "from print",
    "from stderr",
    "from descriptor 1",
    "from descriptor 2",
    "from child",
    "from warnings",
    "WARNING late: from logging",
    "from an early handler",
)


def run_noisy(log: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", NOISY, str(log), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_everything_but_the_console_goes_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("from an earlier run\n")
    done = run_noisy(log)
    assert done.returncode == 0
    assert done.stdout == "before\none line for the person, terminal: False\nafter\n"
    assert done.stderr == "after on stderr\n"
    text = log.read_text()
    assert text.startswith("from an earlier run\n")
    for words in CAPTURED:
        assert words in text
    assert "one line for the person" not in text


def test_an_exception_leaves_its_traceback_in_the_log_and_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    done = run_noisy(log, "fail")
    assert done.returncode == 1
    assert "OSError: engine 3 is gone" in log.read_text()
    assert "Traceback (most recent call last)" in log.read_text()
    assert done.stderr.endswith("OSError: engine 3 is gone\n")
    assert "after" not in done.stdout


def test_the_console_knows_the_terminal_behind_the_redirect(tmp_path: Path) -> None:
    reader, terminal = pty.openpty()
    command = [sys.executable, "-c", NOISY, str(tmp_path / "run.log")]
    environment = {**os.environ, "TERM": "xterm"}
    subprocess.run(command, cwd=ROOT, stdout=terminal, stderr=terminal, env=environment, timeout=300, check=True)
    os.close(terminal)
    shown = os.read(reader, 10_000).decode()
    os.close(reader)
    assert "one line for the person, terminal: True" in shown
    assert "from" not in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (200.0, "3 min 20 s"), (7500.0, "2 h 5 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
