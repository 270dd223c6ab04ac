"""Verdicts: the weighted sum, the names, and the way through JSON."""

import json
from dataclasses import asdict
from fractions import Fraction

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


@given(weighted=pairs)
def test_the_total_is_the_weighted_sum_rounded_once_in_any_order(weighted: list[tuple[float, float]]) -> None:
    exact = sum(Fraction(weight * value) for weight, value in weighted)
    assert verdict_from(weighted).total == float(exact)
    assert verdict_from(weighted[::-1]).total == float(exact)


@given(format=st.tuples(number, number), answer=st.tuples(number, number))
def test_two_rewards_add_up_like_any_two_numbers(format: tuple[float, float], answer: tuple[float, float]) -> None:
    assert verdict_from([format, answer]).total == format[0] * format[1] + answer[0] * answer[1], "bit for bit"


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
