"""Which way imports point, who may import the heavy libraries, and how large a file may grow.

In: the source text of the packages, read with ast; nothing is imported. Out: one line for each breach, with its place.
Tests and benchmarks are free: they compare our parts with the bare libraries.
"""

import ast
import importlib.machinery
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_RUN_LINES = 40

# What of ours a package may import besides itself. Nothing imports orchestration but itself.
ALLOWED_OURS = {
    "actors": (),
    "analysis": (),
    "configs": (),
    "gates": (),
    "transfer": (),
    "rollout": ("actors", "configs", "transfer"),
    "learner": ("actors", "configs", "gates", "transfer", "rollout.contract"),
    "reports": ("actors.spans", "analysis", "configs"),
    "batching": (),
    "planning": ("batching", "configs"),  # simulates time, and runs the admission rule and the buffers themselves
    "orchestration": (
        "actors",
        "analysis",
        "batching",
        "configs",
        "gates",
        "transfer",
        "rollout",
        "learner",
        "reports",
        "planning",
    ),
}
# Packages that may import nothing from outside but this (and the standard library).
ALLOWED_THIRD_PARTY = {
    "actors": ("ray",),
    "analysis": ("numpy",),
    "batching": (),
    "planning": ("numpy", "pydantic", "yaml"),
    "gates": ("torch", "triton", "numpy", "rich", "matplotlib"),
    "configs": ("pydantic", "pydantic_core", "hydra", "omegaconf", "yaml"),
}
# Who may import a heavy library; a folder stands for all of its modules.
OWNERS = {
    "math_verify": ("rollout/grading/symbolic.py",),
    "latex2sympy2_extended": ("rollout/grading/symbolic.py",),
    "sympy": ("rollout/grading/symbolic.py",),
    "datasets": ("rollout/tasks/data_sets.py",),
    "vllm": (
        "rollout/engine.py",
        "rollout/async_llm.py",
        "rollout/inline_llm.py",
        "rollout/receiver.py",
        "transfer/communicator.py",
    ),
    "peft": ("learner/lora.py",),
    "deepspeed": ("learner/engine_start.py", "learner/checkpoint.py", "learner/zero.py"),
    "ray": (
        "actors/",
        "rollout/engine.py",
        "rollout/engine_pool.py",
        "rollout/fleet.py",
        "rollout/graders.py",
        "learner/worker.py",
        "learner/group.py",
        "orchestration/",
    ),
}
# Modules that must load in milliseconds wherever a contract is read.
LIGHT_MODULES = ("rollout/contract.py", "learner/contract.py")
LIGHT_THIRD_PARTY = ("numpy",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Import:
    """One imported name, as a dotted path: `from rollout import fleet` gives rollout.fleet."""

    module: str
    line: int

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


def source_files(root: Path) -> list[Path]:
    """All Python files of our packages below root."""
    return sorted(path for package in ALLOWED_OURS for path in (root / package).rglob("*.py"))


def imports_of(path: Path, root: Path) -> Iterator[Import]:
    """Every import of a file : at the top, in a function, under TYPE_CHECKING, by import_module("name")."""
    package = path.relative_to(root).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (Import(module=alias.name, line=node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (*package[: len(package) - node.level + 1],) if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            yield from (Import(module=f"{module}.{alias.name}", line=node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield Import(module=node.args[0].value, line=node.lineno)


def is_within(module: str, allowed: tuple[str, ...]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


def direction_breaches(path: Path, root: Path) -> Iterator[str]:
    """Imports of our packages that point the wrong way."""
    package = path.relative_to(root).parts[0]
    for found in imports_of(path, root):
        if found.top in ALLOWED_OURS and not is_within(found.module, (package, *ALLOWED_OURS[package])):
            yield f"{path.relative_to(root)}:{found.line}: {package} may not import {found.module}"


def owner_breaches(path: Path, root: Path) -> Iterator[str]:
    """Imports of heavy libraries outside the files that own them."""
    name = path.relative_to(root).as_posix()
    for found in imports_of(path, root):
        owners = OWNERS.get(found.top)
        if owners is not None and not any(
            name == owner or (owner[-1] == "/" and name.startswith(owner)) for owner in owners
        ):
            yield f"{name}:{found.line}: only {', '.join(owners)} may import {found.top}"


def third_party_breaches(path: Path, root: Path) -> Iterator[str]:
    """Imports from outside in packages and modules that name what they may take."""
    name = path.relative_to(root)
    allowed = LIGHT_THIRD_PARTY if name.as_posix() in LIGHT_MODULES else ALLOWED_THIRD_PARTY.get(name.parts[0])
    if allowed is None:
        return
    for found in imports_of(path, root):
        if found.top not in ALLOWED_OURS and found.top not in sys.stdlib_module_names and found.top not in allowed:
            yield f"{name}:{found.line}: may import {', '.join(allowed)} only, not {found.module}"


def size_breaches(path: Path, root: Path) -> Iterator[str]:
    """Files and functions beyond the limits, and modules that do not say what they do."""
    name, text = path.relative_to(root), path.read_text()
    tree = ast.parse(text)
    if len(text.splitlines()) > MAX_FILE_LINES:
        yield f"{name}: {len(text.splitlines())} lines, at most {MAX_FILE_LINES}"
    if not ast.get_docstring(tree):
        yield f"{name}: no module docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield f"{name}:{node.lineno}: {node.name} has {length} lines, at most {MAX_FUNCTION_LINES}"


def shadowing_breaches(path: Path, root: Path) -> Iterator[str]:
    """Modules of orchestration/ that hide a library: `python orchestration/run.py` puts it first on sys.path."""
    if path.relative_to(root).parts[0] != "orchestration" or path.stem == "__init__":
        return
    search_path = [entry for entry in sys.path if Path(entry).resolve() != path.parent.resolve()]
    if path.stem in sys.stdlib_module_names or importlib.machinery.PathFinder.find_spec(path.stem, search_path):
        yield f"{path.relative_to(root)}: hides the installed module {path.stem}"


def run_script_breaches(path: Path, root: Path) -> Iterator[str]:
    """run.py is the command and no more: Ray would pickle a class defined in __main__ by value."""
    if path.relative_to(root).as_posix() != "orchestration/run.py":
        return
    text = path.read_text()
    if len(text.splitlines()) > MAX_RUN_LINES:
        yield f"orchestration/run.py: {len(text.splitlines())} lines, at most {MAX_RUN_LINES}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            yield f"orchestration/run.py:{node.lineno}: defines class {node.name}"


Check = Callable[[Path, Path], Iterator[str]]
CHECKS: tuple[Check, ...] = (
    direction_breaches,
    owner_breaches,
    third_party_breaches,
    size_breaches,
    shadowing_breaches,
    run_script_breaches,
)

# file, its source, the check that must object, and words of its message
BREACHES = [
    ("gates/a.py", "import configs.schema\n", direction_breaches, "gates may not import configs.schema"),
    ("configs/a.py", "from gates import get_gate\n", direction_breaches, "configs may not import gates.get_gate"),
    ("actors/a.py", "import learner.spec\n", direction_breaches, "actors may not import learner.spec"),
    ("learner/a.py", "from rollout import fleet\n", direction_breaches, "learner may not import rollout.fleet"),
    ("learner/a.py", "import rollout\n", direction_breaches, "learner may not import rollout"),
    ("learner/a.py", "from ..rollout import fleet\n", direction_breaches, "learner may not import rollout.fleet"),
    (
        "rollout/tasks/a.py",
        "def f():\n    import learner.packing\n",
        direction_breaches,
        "a.py:2: rollout may not import",
    ),
    (
        "transfer/a.py",
        "from orchestration.loop import train\n",
        direction_breaches,
        "transfer may not import orchestration",
    ),
    ("learner/a.py", "import importlib\nimportlib.import_module('vllm.config')\n", owner_breaches, "may import vllm"),
    ("orchestration/a.py", "import deepspeed\n", owner_breaches, "only learner/engine_start.py"),
    ("rollout/prompts.py", "if True:\n    from ray import get\n", owner_breaches, "rollout/prompts.py:2: only"),
    ("gates/a.py", "import transformers\n", third_party_breaches, "not transformers"),
    ("configs/a.py", "from torch import nn\n", third_party_breaches, "not torch.nn"),
    ("analysis/a.py", "from orchestration import plots\n", direction_breaches, "analysis may not import orchestration"),
    ("planning/a.py", "from orchestration import loop\n", direction_breaches, "planning may not import orchestration"),
    ("planning/a.py", "import torch\n", third_party_breaches, "may import numpy, pydantic, yaml only"),
    ("analysis/a.py", "import scipy.stats\n", third_party_breaches, "may import numpy only"),
    ("actors/a.py", "import torch\n", third_party_breaches, "may import ray only"),
    ("rollout/contract.py", "import torch\n", third_party_breaches, "may import numpy only"),
    ("gates/a.py", "x = 1\n", size_breaches, "no module docstring"),
    ("gates/a.py", '"""Doc."""\n' + "x = 1\n" * 400, size_breaches, "401 lines"),
    ("gates/a.py", '"""Doc."""\ndef f():\n' + "    x = 1\n" * 60, size_breaches, "f has 61 lines"),
    ("orchestration/queue.py", "", shadowing_breaches, "hides the installed module queue"),
    ("orchestration/numpy.py", "", shadowing_breaches, "hides the installed module numpy"),
    ("orchestration/run.py", "class A: ...\n", run_script_breaches, "defines class A"),
    ("orchestration/run.py", "x = 1\n" * 41, run_script_breaches, "41 lines"),
]
CORRECT = {
    "learner/engine_start.py": "from rollout.contract import Prompt\nimport deepspeed, gates, configs, transfer\n",
    "planning/simulation.py": "from batching.admission import Admission\nimport configs.schema, numpy\n",
    "orchestration/loop.py": "from . import buffer\nimport ray\nimport torch, rollout.fleet, learner.group\n",
    "gates/kernels.py": "def f():\n    import triton.language as tl\n",
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_packages_keep_the_rules(check: Check) -> None:
    files = source_files(ROOT)
    assert {path.relative_to(ROOT).parts[0] for path in files} == set(ALLOWED_OURS)
    breaches = [breach for path in files for breach in check(path, ROOT)]
    assert not breaches, "\n".join(breaches)


def test_run_script_exists() -> None:
    assert (ROOT / "orchestration" / "run.py").is_file()


@pytest.mark.parametrize(("name", "source", "check", "message"), BREACHES)
def test_checker_finds_breach(tmp_path: Path, name: str, source: str, check: Check, message: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(source)
    breaches = list(check(path, tmp_path))
    assert len(breaches) == 1
    assert message in breaches[0]


@pytest.mark.parametrize("name", CORRECT)
def test_checker_accepts_correct_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(f'"""Says what it does."""\n{CORRECT[name]}')
    assert [breach for check in CHECKS for breach in check(path, tmp_path)] == []
