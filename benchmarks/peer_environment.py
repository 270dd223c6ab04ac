"""The environment of the peers: TRL with the torch and transformers of our environment, in a folder of its own.

Out: the environment's Python, made at the first use. Ours does not change: TRL is no dependency of the project.
"""

import subprocess
import sys
import venv
from importlib.metadata import requires, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-peers"
TRL = "1.16.0"
STAMP = FOLDER / "installed.txt"


def peer_python() -> Path:
    """The Python with TRL; RuntimeError with the installer's last lines if it cannot be made."""
    python = FOLDER / "bin" / "python"
    wanted = _requirements()
    if STAMP.is_file() and STAMP.read_text(encoding="utf-8").splitlines() == wanted:
        return python
    venv.create(FOLDER, clear=True, symlinks=True, with_pip=True, prompt="softgate-peers")
    torch, *others = wanted
    # The CPU build of torch has a local version, which pip finds if it is configured to, and uv elsewhere.
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", torch]
    has_torch = subprocess.run(pip, capture_output=True, check=False).returncode == 0
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python), torch, *others]
    found = subprocess.run(
        [*command, *([] if has_torch else ["--torch-backend=cpu"])], capture_output=True, text=True, check=False
    )
    if found.returncode != 0:
        tail = " ".join(found.stderr.split()[-60:])
        raise RuntimeError(f"TRL could not be installed into {FOLDER}: {tail}")
    STAMP.write_text("\n".join(wanted) + "\n", encoding="utf-8")
    return python


def _requirements() -> list[str]:
    """Requirements: torch and transformers in our versions, TRL, and the dependencies of our grader."""
    (grader,) = (line for line in requires("softgate") or () if line.startswith("math-verify"))
    return [f"torch=={version('torch')}", f"transformers=={version('transformers')}", f"trl=={TRL}", grader]
