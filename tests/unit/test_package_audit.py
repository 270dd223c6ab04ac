"""The audit of the installed packages: information that fails no build, with pip-audit as a stand-in."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "audit.py"


def audit(tmp_path: Path, pip_audit: str) -> list[str]:
    """The lines printed where pip-audit is this program."""
    (tmp_path / "pip_audit.py").write_text(pip_audit)
    command, environment = [sys.executable, str(SCRIPT)], os.environ | {"PYTHONPATH": str(tmp_path)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


def test_licences_and_vulnerabilities_are_listed(tmp_path: Path) -> None:
    found = {"name": "leaky", "version": "1.2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.3"]}]}
    answer = json.dumps({"dependencies": [found, {"name": "sound", "version": "2.0", "vulns": []}]})
    lines = audit(tmp_path, f"print({answer!r}); raise SystemExit(1)")  # pip-audit's status where it has found any
    assert lines[0] == "licences of the installed packages:"
    assert any(line.startswith("Apache-2.0 (") for line in lines)
    assert lines[-2:] == ["vulnerabilities: 1 in 2 packages", "leaky 1.2: PYSEC-1, mended in 1.3"]


def test_without_a_network_one_line_says_so(tmp_path: Path) -> None:
    lines = audit(tmp_path, "raise ConnectionError('https://registry.example/simple: no route')")
    assert lines[-1].startswith("vulnerabilities: not known")
    assert not any("registry.example" in line for line in lines)
