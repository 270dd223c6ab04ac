"""One behaviour over all supported versions of vLLM; stand-ins for the oldest and for later ones."""

import re
import tomllib
from abc import ABC, abstractmethod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.packages import PACKAGES
from rollout.engines import vllm_versions
from rollout.engines.vllm_versions import NoTrainerHalf, kv_cache_usage, weight_version_setter, weight_version_spans

ROOT = Path(__file__).resolve().parents[4]


def test_tokens_are_labelled_where_vllm_has_labels() -> None:
    labels: list[str] = []
    assert weight_version_setter(SimpleNamespace()) is None
    for name in ("update_weight_version", "set_weight_version"):
        setter = weight_version_setter(SimpleNamespace(**{name: labels.append}))
        assert setter is not None
        setter("3")
    assert labels == ["3", "3"]


def test_an_output_without_labels_has_no_spans() -> None:
    spans = [SimpleNamespace(version="3", start=0)]
    assert list(weight_version_spans(SimpleNamespace(weight_versions=spans))) == spans
    assert list(weight_version_spans(SimpleNamespace(weight_versions=None))) == []
    assert list(weight_version_spans(SimpleNamespace())) == []


def test_the_use_of_the_cache_is_the_schedulers_or_its_managers() -> None:
    assert kv_cache_usage(SimpleNamespace(kv_cache_manager=SimpleNamespace(usage=0.25))) == 0.25
    assert kv_cache_usage(SimpleNamespace(get_kv_cache_usage=lambda: 0.5)) == 0.5


def test_a_receiver_needs_no_sending_half_of_its_own() -> None:
    class OfOldVllm(ABC):
        @staticmethod
        @abstractmethod
        def trainer_send_weights(iterator: Any, trainer_args: Any) -> None: ...

    class Receiver(NoTrainerHalf, OfOldVllm): ...

    with pytest.raises(RuntimeError, match=r"learner/sender\.py"):
        Receiver().trainer_send_weights(None, None)


def test_the_file_speaks_of_the_versions_that_the_project_supports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (requirement,) = (one for one in project["optional-dependencies"]["gpu"] if one.startswith("vllm"))
    low, beyond = re.findall(r"0\.(\d+)", requirement)
    assert f"0.{low} to 0.{int(beyond) - 1}" in (vllm_versions.__doc__ or "")


def test_no_other_file_of_ours_tells_versions_of_vllm_apart() -> None:
    sources = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    telling = [path.relative_to(ROOT).as_posix() for path in sources if re.search(r"vLLM 0\.\d", path.read_text())]
    assert telling == []
