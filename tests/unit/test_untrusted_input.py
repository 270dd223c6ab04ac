"""What is read from a disk or a network runs no code: our sources neither unpickle nor evaluate it.

In: the source text of the packages, read with ast. Out: one line for each breach. What a library reads on our behalf is
in docs/security.md.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from configs.packages import PACKAGES

ROOT = Path(__file__).resolve().parents[2]
RUNS_WHAT_IT_READS = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
}
# Calls that do so unless a keyword says otherwise.
SAFE_BY_KEYWORD = {"torch.load": ("weights_only", True)}
RUN_TEXT = {"eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen"}
# Keywords that may be a setting's value but never a constant of ours.
ASKED_FOR = {"trust_remote_code": True, "shell": True, "allow_pickle": True}


def breaches(source: str, name: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        place = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for module in modules:
                if module.partition(".")[0] in RUNS_WHAT_IT_READS:
                    yield f"{place}: imports {module}"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {each.arg: each.value for each in node.keywords}
            constants = {name: each.value for name, each in keywords.items() if isinstance(each, ast.Constant)}
            keyword, safe = SAFE_BY_KEYWORD.get(called, (None, None))
            if keyword is not None and constants.get(keyword) is not safe:
                yield f"{place}: {called} without {keyword}={safe}"
            if called in RUN_TEXT:
                yield f"{place}: calls {called}"
            for keyword, unsafe in ASKED_FOR.items():
                if constants.get(keyword) is unsafe:
                    yield f"{place}: {called} with {keyword}={unsafe}"


def test_nothing_that_is_read_is_run() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 100
    found = [each for path in files for each in breaches(path.read_text(), path.relative_to(ROOT).as_posix())]
    assert found == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import pickle", "imports pickle"),
        ("from cloudpickle import loads", "imports cloudpickle"),
        ("torch.load(path)", "torch.load without weights_only=True"),
        ("torch.load(path, weights_only=False)", "torch.load without weights_only=True"),
        ("torch.load(path, weights_only=asked)", "torch.load without weights_only=True"),
        ("np.load(path, allow_pickle=True)", "np.load with allow_pickle=True"),
        ("eval(text)", "calls eval"),
        ("yaml.load(text, yaml.Loader)", "calls yaml.load"),
        ("load(path, trust_remote_code=True)", "load with trust_remote_code=True"),
        ("subprocess.run(text, shell=True)", "subprocess.run with shell=True"),
    ],
)
def test_the_search_finds_each(source: str, message: str) -> None:
    assert message in "\n".join(breaches(source, "a.py"))


@pytest.mark.parametrize(
    "source",
    ["torch.load(path, weights_only=True)", "load(path, trust_remote_code=spec.trust_remote_code)", "model.eval()"],
)
def test_the_search_accepts_what_is_safe(source: str) -> None:
    assert list(breaches(source, "a.py")) == []
