"""Verdicts: the weighted sum, the names, and the way through JSON."""

import json
import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.rewards import RewardConfig
from rollout.contract import RewardComponent, RewardVerdict
from rollout.rewards.built_in import BUILT_IN
from rollout.rewards.functions import zero_verdict

number = st.floats(-1e6, 1e6)
pairs = st.lists(st.tuples(number, number), max_size=4)  # (weight, value) of each of one's own rewards


def verdict_from(weighted: list[tuple[float, float]]) -> RewardVerdict:
    names = ["format", "answer", *(f"own{place}" for place in range(len(weighted)))]
    return RewardVerdict(
        components=tuple(
            RewardComponent(name=name, value=value, weight=weight)
            for name, (weight, value) in zip(names, weighted, strict=False)
        )
    )


@given(format=st.tuples(number, number), answer=st.tuples(number, number), own=pairs)
def test_the_total_adds_the_sum_of_ones_own_rewards_to_format_and_answer(
    format: tuple[float, float], answer: tuple[float, float], own: list[tuple[float, float]]
) -> None:
    verdict = verdict_from([format, answer, *own])
    sum_of_own = 0
    for weight, value in own:
        sum_of_own += weight * value
    assert verdict.total == format[0] * format[1] + answer[0] * answer[1] + sum_of_own, "bit for bit"
    products = [weight * value for weight, value in (format, answer, *own)]
    assert math.isclose(verdict.total, math.fsum(products), abs_tol=1e-12 * sum(map(abs, products)))


@given(weighted=pairs, failed=st.booleans())
def test_a_verdict_comes_back_from_json_with_its_names(weighted: list[tuple[float, float]], *, failed: bool) -> None:
    verdict = verdict_from(weighted)
    more = RewardComponent(name="more", value=0.0, weight=1.0, failed=failed)
    verdict = RewardVerdict(components=(*verdict.components, more))
    back = RewardVerdict.from_plain(json.loads(json.dumps(asdict(verdict))))
    assert back == verdict
    assert list(back.values) == [component.name for component in verdict.components]
    assert [back.value(component.name) for component in back.components] == list(back.values.values())
    assert back.num_failed == int(failed)


def test_a_verdict_refuses_names_that_it_does_not_have() -> None:
    with pytest.raises(KeyError, match="missing"):
        zero_verdict(RewardConfig()).value("missing")


def test_every_built_in_reward_has_a_weight_and_the_order_of_the_sum() -> None:
    assert list(BUILT_IN) == list(RewardConfig().built_in_weights)
    assert list(BUILT_IN)[:2] == ["format", "answer"]


def test_a_completion_without_a_verdict_has_zeros_under_every_configured_name() -> None:
    own = {"mine": {"function": "a:b", "weight": 0.1}}
    verdict = zero_verdict(RewardConfig.model_validate({"answer_weight": 3.0, "extra": own}))
    assert verdict.values == dict.fromkeys([*BUILT_IN, "mine"], 0.0)
    weights = {component.name: component.weight for component in verdict.components}
    assert (weights["format"], weights["answer"], weights["mine"]) == (1.0, 3.0, 0.1)
    assert (verdict.total, verdict.num_failed) == (0.0, 0)
