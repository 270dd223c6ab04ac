"""docs/paper.md holds: what it names exists, and the settings of its recipe are those of experiment=paper."""

import ast
import re
from pathlib import Path

import pytest

from configs.loading import config_groups, load_config

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "paper.md").read_text()
EQUATIONS = [f"({number})" for number in range(1, 13)] + ["(i)", "(ii)", "(iii)", "(iv)"]


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    section = PAGE.split(f"## {heading}")[1]
    table = section[section.index("\n|") :].split("\n\n")[0].strip().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def settings(text: str) -> list[tuple[str, str]]:
    return re.findall(r"`([a-z_.0-9]+)=([^`\s]+)`", text)


def as_typed(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_every_equation_and_condition_has_a_row_that_names_its_code() -> None:
    for name in EQUATIONS:
        (row,) = re.findall(rf"^\| {re.escape(name)} \|.*$", PAGE, re.M)
        assert re.search(r"`[a-z_/]+\.py:\w+`", row), row


@pytest.mark.parametrize(("file", "name"), sorted(set(re.findall(r"`([a-z_/]+\.py):(\w+)`", PAGE))))
def test_what_the_page_names_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    assert name in defined


def test_the_settings_of_the_recipe_are_those_of_the_experiment() -> None:
    config = load_config(["experiment=paper"])
    told = [setting for row in rows("Recipe: `experiment=paper`") for setting in settings(row[2])]
    assert len(told) > 20
    for key, value in told:
        found: object = config
        for part in key.split("."):
            found = getattr(found, part)
        assert as_typed(found) == value, key


def test_every_setting_that_the_page_names_is_accepted() -> None:
    groups = config_groups()
    keys = set(re.findall(r"`((?:gate|learner|objective|rollout|task|cluster|model)\.[a-z_.0-9]+)[=`]", PAGE))
    assert len(keys) > 20
    tree = load_config(["experiment=paper", "gate=grpo"]), load_config(["experiment=paper"])
    for key in keys:
        section, _, name = key.partition(".")
        assert any(has(getattr(config, section), name) for config in tree), key
    for group, choice in settings(PAGE):
        assert group not in groups or choice in groups[group], (group, choice)


def has(section: object, dotted: str) -> bool:
    for name in dotted.split("."):
        section = section.get(name) if isinstance(section, dict) else getattr(section, name, None)
    return section is not None


def test_the_shared_gpus_of_the_page_are_a_valid_run() -> None:
    (line,) = re.findall(r"`(rollout\.num_engines=8[^`]+)`", PAGE)
    config = load_config(["experiment=paper", *line.split()])
    assert config.cluster.shares_gpus
    assert config.learner.num_workers == 8
