"""The configured reward: weights, rewards of the user's own, their failures, and what is refused."""

import re
import sys
from pathlib import Path

import pytest
from verdicts import verdict_of

from configs.loading import load_config
from configs.rewards import RewardConfig
from rollout.contract import RewardVerdict
from rollout.rewards.functions import RewardError, make_reward

ROOT = Path(__file__).resolve().parents[4]
RIGHT, WRONG = "<think>a</think><answer>42</answer>", "<think>a</think><answer>41</answer>"
MODULE = """
import sys
import numpy
def length(completion_text, reference_answer):
    return len(completion_text)
def defect(completion_text, reference_answer):
    return 1 / 0
def infinite(completion_text, reference_answer):
    return float("inf")
def leaves(completion_text, reference_answer):
    sys.exit(3)
def narrow(completion_text, reference_answer):
    return numpy.float32(0.5)
NUMBER = 3
"""


@pytest.fixture
def own_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_rewards.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_rewards", raising=False)


def config(*functions: str, **fields: object) -> RewardConfig:
    extra = {name: {"function": f"own_rewards:{name}", "weight": 0.5} for name in functions}
    return RewardConfig.model_validate({"extra": extra, **fields})


def grade(reward: RewardConfig, text: str) -> RewardVerdict:
    return make_reward(reward.model_dump(mode="json"), lambda name, verdict: None)(text, "42")


def test_the_default_is_format_plus_answer() -> None:
    assert grade(RewardConfig(), RIGHT).total == 2.0
    assert grade(RewardConfig(), WRONG).total == 1.0
    assert grade(RewardConfig(), RIGHT) == verdict_of(format=1.0, answer=1.0)
    assert grade(RewardConfig(), WRONG) == verdict_of(format=1.0, answer=0.0)


def test_weights_change_the_total_and_not_the_parts() -> None:
    verdict = grade(RewardConfig(format_weight=0.25, answer_weight=2.0), RIGHT)
    assert verdict.values == {"format": 1.0, "answer": 1.0}
    assert verdict.total == 2.25


def test_extra_rewards_add_to_the_total_by_their_weights(own_rewards: None) -> None:
    verdict = grade(config("length"), RIGHT)
    assert verdict.values == {"format": 1.0, "answer": 1.0, "length": float(len(RIGHT))}
    assert verdict.total == 2.0 + 0.5 * len(RIGHT)


def test_a_number_of_numpy_is_a_number(own_rewards: None) -> None:
    value = grade(config("narrow"), RIGHT).value("narrow")
    assert (value, type(value)) == (0.5, float)


def test_each_extra_reward_is_announced_before_it_runs(own_rewards: None) -> None:
    announced: list[tuple[str, RewardVerdict]] = []
    settings = config("length", "defect", on_error="zero").model_dump(mode="json")
    make_reward(settings, lambda name, verdict: announced.append((name, verdict)))(RIGHT, "42")
    assert [name for name, _ in announced] == ["length", "defect"]
    assert [(verdict.total, verdict.num_failed) for _, verdict in announced] == [(2.0, 2), (2.0 + len(RIGHT) / 2, 1)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("defect", "reward.extra.defect raised ZeroDivisionError"),
        ("infinite", "reward.extra.infinite gave inf"),
        ("leaves", "reward.extra.leaves raised SystemExit: 3"),
    ],
)
def test_a_failure_is_named_or_counts_as_zero(own_rewards: None, name: str, message: str) -> None:
    with pytest.raises(RewardError, match=re.escape(message)):
        grade(config(name), RIGHT)
    verdict = grade(config(name, "length", on_error="zero"), RIGHT)
    assert verdict.values == {"format": 1.0, "answer": 1.0, name: 0.0, "length": float(len(RIGHT))}
    assert [component.name for component in verdict.components if component.failed] == [name]
    assert verdict.num_failed == 1


def test_the_example_of_the_documentation_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "my_rewards.py").write_text(source, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (command,) = re.findall(r"orchestration/run\.py (reward\..*)", text)
    reward = load_config(command.split()).reward
    verdict = grade(reward, RIGHT)
    assert verdict.value("short") == pytest.approx(1.0 - len(RIGHT) / 200)
    assert verdict.total == pytest.approx(2.0 + 0.1 * verdict.value("short"))
