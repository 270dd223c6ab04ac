"""Information about the installed packages: licences, and known vulnerabilities where the network allows it.

In: the environment of this Python. Out: the packages by licence, a line a vulnerability, and exit status 0, because
neither decides whether a change is right. pip-audit asks osv.dev; what it prints about the network stays out.
"""

import json
import subprocess
import sys
import textwrap
from collections import defaultdict
from importlib import metadata

DATABASE_TIMEOUT_S = 15.0
ASK_DATABASE = "-m pip_audit --vulnerability-service osv --timeout 5 --progress-spinner off --format json"
CLASSIFIER = "License :: "
WIDTH = 120


def licence(package: metadata.Distribution) -> str:
    """The licence that a package states: an SPDX expression, else its classifiers, else the first line of its text."""
    stated = {name: package.metadata[name] for name in ("License-Expression", "License") if name in package.metadata}
    if expression := stated.get("License-Expression"):
        return expression
    classifiers = [name for name in package.metadata.get_all("Classifier") or () if name.startswith(CLASSIFIER)]
    named = sorted({name.rpartition(" :: ")[2] for name in classifiers} - {"OSI Approved"})
    text = stated.get("License", "").strip().partition("\n")[0]
    return ", ".join(named) or text[:60] or "not stated"


def licence_table() -> str:
    """Each licence with the packages that state it, the commonest first."""
    packages: dict[str, set[str]] = defaultdict(set)
    for package in metadata.distributions():
        packages[licence(package)].add(str(package.metadata["Name"]))
    rows = sorted(packages.items(), key=lambda row: (-len(row[1]), row[0]))
    return "\n".join(
        textwrap.fill(
            f"{name} ({len(of_it)}): {', '.join(sorted(of_it, key=str.lower))}",
            WIDTH,
            subsequent_indent="  ",
            break_on_hyphens=False,
        )
        for name, of_it in rows
    )


def vulnerabilities() -> str:
    """Known vulnerabilities of the installed packages, or why they are not known."""
    command = [sys.executable, *ASK_DATABASE.split()]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=DATABASE_TIMEOUT_S)
        packages = json.loads(asked.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return f"vulnerabilities: not known, the database did not answer within {DATABASE_TIMEOUT_S:g} s"
    lines = [
        f"{package['name']} {package['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'none'}"
        for package in packages
        for found in package.get("vulns", ())
    ]
    return "\n".join([f"vulnerabilities: {len(lines)} in {len(packages)} packages", *lines])


if __name__ == "__main__":
    print(f"licences of the installed packages:\n{licence_table()}\n{vulnerabilities()}")
