"""Which way imports point, who may import the heavy libraries, and how large a file may grow.

In: the source text of the packages, read with ast; nothing is imported. Out: one line for each breach, with its place.
Tests and benchmarks are free: they compare our parts with the bare libraries.
"""

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from configs.packages import PACKAGES

ROOT = Path(__file__).resolve().parents[2]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_RUN_LINES = 40
MAX_FOLDER_FILES = 20
MAX_FILES_OF_A_WORD = 2

# What of ours a package or a folder within may import besides itself; the longest path that contains a file counts.
# Nothing imports orchestration but itself.
ALLOWED_OURS = {
    "configs": (),
    "gates": (),
    "transfer": (),
    "rollout": ("configs", "transfer"),
    "learner": ("configs", "gates", "transfer", "rollout.contract"),
    "orchestration": ("configs", "gates", "transfer", "rollout", "learner"),
    "orchestration/statistics": (),
    "orchestration/pages": ("configs", "orchestration.statistics"),
    "orchestration/journal": (
        "configs",
        "transfer.spans",
        "rollout.contract",
        "learner.contract",
        "orchestration.stream.group_metrics",
        "orchestration.terminal",
        "orchestration.pages",
    ),
    "orchestration/terminal": ("configs",),
    "orchestration/network": (),
}
# Packages, folders and files that may import nothing from outside but this (and the standard library).
ALLOWED_THIRD_PARTY = {
    "configs": ("pydantic", "pydantic_core", "hydra", "omegaconf", "yaml"),
    "gates": ("torch", "triton", "numpy", "rich", "matplotlib"),
    "transfer/answers.py": ("ray",),
    "transfer/heartbeats.py": ("ray",),
    "transfer/patience.py": (),
    "transfer/spans.py": (),
    "transfer/wire.py": ("torch", "numpy"),
    "rollout/contract.py": ("numpy",),
    "learner/contract.py": ("numpy",),
    "orchestration/statistics": ("numpy", "scipy"),
    "orchestration/stream/order.py": (),
    "orchestration/stream/positions.py": (),
    "orchestration/stream/prompt_order.py": (),
    "orchestration/stream/finished_order.py": (),
}
# Who may import a heavy library; a folder stands for all of its modules.
OWNERS = {
    "math_verify": ("rollout/rewards/grading/symbolic.py",),
    "latex2sympy2_extended": ("rollout/rewards/grading/symbolic.py",),
    "sympy": ("rollout/rewards/grading/symbolic.py",),
    "datasets": ("rollout/tasks/data_sets.py",),
    "vllm": (
        "rollout/engines/starting.py",
        "rollout/engines/sampling.py",
        "rollout/engines/async_llm.py",
        "rollout/engines/inline_llm.py",
        "rollout/engines/receiver.py",
    ),
    "peft": ("learner/model/lora.py",),
    "deepspeed": (
        "learner/engine_start.py",
        "learner/checkpoints/fragments.py",
        "learner/optimizer.py",
        "learner/model/zero.py",
    ),
    "ray": (
        "transfer/answers.py",
        "transfer/heartbeats.py",
        "rollout/fleets/engine_pool.py",
        "rollout/fleets/fleet.py",
        "rollout/rewards/graders.py",
        "learner/worker.py",
        "learner/group.py",
        "orchestration/",
    ),
}


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
    return sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))


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


def rule_for(rules: dict[str, tuple[str, ...]], name: str) -> tuple[str, tuple[str, ...]] | None:
    """The rule of the longest path that is the file or contains it, with that path."""
    paths = [path for path in rules if name == path or name.startswith(f"{path}/")]
    return (longest, rules[longest]) if (longest := max(paths, key=len, default="")) else None


def direction_breaches(path: Path, root: Path) -> Iterator[str]:
    """Imports of our packages that point the wrong way."""
    name = path.relative_to(root)
    place, allowed = rule_for(ALLOWED_OURS, name.as_posix()) or ("", ())
    own = place.replace("/", ".")
    for found in imports_of(path, root):
        if found.top in PACKAGES and not is_within(found.module, (own, *allowed)):
            yield f"{name}:{found.line}: {own} may not import {found.module}"


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
    rule = rule_for(ALLOWED_THIRD_PARTY, name.as_posix())
    if rule is None:
        return
    allowed = rule[1]
    for found in imports_of(path, root):
        if found.top not in PACKAGES and found.top not in sys.stdlib_module_names and found.top not in allowed:
            named = ", ".join(allowed) or "the standard library"
            yield f"{name}:{found.line}: may import {named} only, not {found.module}"


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
    run_script_breaches,
)

# file, its source, the check that must object, and words of its message
BREACHES = [
    ("gates/a.py", "import configs.schema\n", direction_breaches, "gates may not import configs.schema"),
    ("configs/a.py", "from gates import get_gate\n", direction_breaches, "configs may not import gates.get_gate"),
    ("transfer/a.py", "import learner.spec\n", direction_breaches, "transfer may not import learner.spec"),
    ("learner/a.py", "from rollout import fleet\n", direction_breaches, "learner may not import rollout.fleet"),
    ("learner/a.py", "import rollout\n", direction_breaches, "learner may not import rollout"),
    ("learner/a.py", "from ..rollout import fleet\n", direction_breaches, "learner may not import rollout.fleet"),
    (
        "rollout/tasks/a.py",
        "def f():\n    import learner.batches.packing\n",
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
    (
        "orchestration/statistics/a.py",
        "from orchestration.study import result\n",
        direction_breaches,
        "orchestration.statistics may not import orchestration.study",
    ),
    (
        "orchestration/journal/a.py",
        "from orchestration import loop\n",
        direction_breaches,
        "orchestration.journal may not import orchestration.loop",
    ),
    ("orchestration/statistics/a.py", "import torch\n", third_party_breaches, "may import numpy, scipy only"),
    ("orchestration/stream/order.py", "import numpy\n", third_party_breaches, "may import the standard library only"),
    ("transfer/answers.py", "import torch\n", third_party_breaches, "may import ray only"),
    ("rollout/contract.py", "import torch\n", third_party_breaches, "may import numpy only"),
    ("gates/a.py", "x = 1\n", size_breaches, "no module docstring"),
    ("gates/a.py", '"""Doc."""\n' + "x = 1\n" * 400, size_breaches, "401 lines"),
    ("gates/a.py", '"""Doc."""\ndef f():\n' + "    x = 1\n" * 60, size_breaches, "f has 61 lines"),
    ("orchestration/run.py", "class A: ...\n", run_script_breaches, "defines class A"),
    ("orchestration/run.py", "x = 1\n" * 41, run_script_breaches, "41 lines"),
]
CORRECT = {
    "learner/engine_start.py": "from rollout.contract import Prompt\nimport deepspeed, gates, configs, transfer\n",
    "orchestration/plan/simulation.py": "from batching.admission import Admission\nimport configs.schema, numpy\n",
    "orchestration/loop.py": "from . import buffer\nimport ray\nimport torch, rollout.fleet, learner.group\n",
    "gates/kernels.py": "def f():\n    import triton.language as tl\n",
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_packages_keep_the_rules(check: Check) -> None:
    files = source_files(ROOT)
    assert {path.relative_to(ROOT).parts[0] for path in files} == set(PACKAGES)
    breaches = [breach for path in files for breach in check(path, ROOT)]
    assert not breaches, "\n".join(breaches)


def crowded_folders(names: Iterable[str]) -> Iterator[str]:
    """Folders with too many files of their own, and names that want a folder: three files that begin with one word."""
    files: dict[str, list[str]] = defaultdict(list)
    for name in names:
        folder, _, file = name.rpartition("/")
        files[folder].append(file.removesuffix(".py"))
    for folder, stems in sorted(files.items()):
        if len(stems) > MAX_FOLDER_FILES:
            yield f"{folder}/: {len(stems)} files, at most {MAX_FOLDER_FILES}"
        for word, number in Counter(stem.partition("_")[0] for stem in stems if stem != "__init__").items():
            if number > MAX_FILES_OF_A_WORD:
                yield f"{folder}/: {number} files begin with {word}; make them a folder"


def test_no_folder_is_crowded() -> None:
    assert list(crowded_folders(path.relative_to(ROOT).as_posix() for path in source_files(ROOT))) == []


def test_checker_finds_crowded_folders() -> None:
    flat = [f"orchestration/{letter}.py" for letter in "abcdefghijklmnopqrstu"]
    assert list(crowded_folders(flat)) == ["orchestration/: 21 files, at most 20"]
    plans = ["a/plan.py", "a/plan_tables.py", "a/plan_costs.py", "a/b/plan.py"]
    assert list(crowded_folders(plans)) == ["a/: 3 files begin with plan; make them a folder"]


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
