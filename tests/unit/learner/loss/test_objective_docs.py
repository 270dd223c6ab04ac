"""The docs name every setting, value and metric of the objective, and the settings they propose load."""

import re
from pathlib import Path
from typing import get_args

import pytest

from configs.loading import load_config
from configs.objective import ObjectiveConfig
from gates.loss import reference_loss
from learner.loss.run_objective import RunObjective

DOCS = Path(__file__).parents[4] / "docs"
TEXT = (DOCS / "objective.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"^\| [^|`]+ \| `([^`]+=[^`]+)` \|$", TEXT, flags=re.MULTILINE)


@pytest.mark.parametrize("name", ObjectiveConfig.model_fields)
def test_every_setting_and_value_is_explained(name: str) -> None:
    assert f"`objective.{name}`" in TEXT
    for value in get_args(ObjectiveConfig.model_fields[name].annotation):
        assert f"`{value}`" in TEXT, value


def test_every_recipe_loads() -> None:
    assert len(RECIPES) == 7
    for recipe in RECIPES:
        load_config(recipe.split())


def test_every_metric_of_an_option_is_documented() -> None:
    documented = set(re.findall(r"^\| `([^`]+)` \|", (DOCS / "metrics.md").read_text(encoding="utf-8"), re.MULTILINE))
    for kind in ("tis", "mis"):
        config = ObjectiveConfig(kl_coef=0.1, correction=kind)  # type: ignore[arg-type]
        names = RunObjective(config, loss_function=reference_loss).token_means
        assert len(names) == 3
        assert set(names) <= documented
