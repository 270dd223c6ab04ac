"""From graded groups to the learner's samples."""

from typing import Literal

import numpy as np
import pytest
from sampled import one_turn, versions
from verdicts import verdict_of

from configs.objective import ObjectiveConfig
from orchestration.stream.batches import has_gradient, to_scoring_batch, to_train_batch
from rollout.contract import Completion, GradedGroup, Prompt, PromptGroup


def graded(index: int, rewards: list[float], *, min_version: int) -> GradedGroup:
    prompt = Prompt(position=index, token_ids=np.array([1, 2], dtype=np.int32), text="", reference_answer="", source="")
    completions = tuple(
        Completion(
            tokens=one_turn(
                [1, 2],
                [10 + place] * (place + 1),
                logprobs=np.full(place + 1, -0.5, dtype=np.float32),
                starts=versions((min_version, 0), (min_version + 1, 1))[: place + 1],
            ),
            text="",
            finished=place < 2,
        )
        for place in range(len(rewards))
    )
    group = PromptGroup(prompt=prompt, completions=completions, engine_index=0, generate_s=0.1)
    return GradedGroup(group=group, verdicts=tuple(verdict_of(format=reward, answer=0.0) for reward in rewards))


def test_each_completion_becomes_a_sample_with_its_groups_advantage() -> None:
    groups = [graded(6, [1.0, 0.0, 0.0], min_version=4), graded(7, [1.0, 1.0], min_version=5)]
    batch = to_train_batch(groups, policy_version=6, objective=ObjectiveConfig(), max_new_tokens=8)
    assert batch.num_groups == 2
    assert [sample.position for sample in batch.samples] == [6, 6, 6, 7, 7]
    assert batch.group_index().tolist() == [0, 0, 0, 1, 1]
    assert [sample.staleness for sample in batch.samples] == [2, 2, 2, 1, 1]
    assert batch.samples[1].tokens.token_ids.tolist() == [1, 2, 11, 11]
    assert batch.samples[1].tokens.completion_mask.tolist() == [False, False, True, True]
    completions = [completion for item in groups for completion in item.group.completions]
    assert all(s.tokens is c.tokens for s, c in zip(batch.samples, completions, strict=True)), "nothing is copied"
    std = np.std([1.0, 0.0, 0.0], ddof=1)
    expected = [(reward - 1 / 3) / (std + 1e-6) for reward in (1.0, 0.0, 0.0)]
    assert [sample.advantage for sample in batch.samples[:3]] == pytest.approx(expected)
    assert [sample.advantage for sample in batch.samples[3:]] == [0.0, 0.0], "equal rewards carry no gradient"
    assert [sample.finished for sample in batch.samples] == [True, True, False, True, True]


def test_what_is_scored_ahead_are_the_sequences_that_are_trained() -> None:
    groups = [graded(6, [1.0, 0.0, 0.0], min_version=4), graded(7, [1.0, 1.0], min_version=5)]
    trained = to_train_batch(groups, policy_version=6, objective=ObjectiveConfig(), max_new_tokens=8)
    scored = to_scoring_batch([item.group for item in groups])
    assert scored.num_groups == 2
    for before, after in zip(scored.samples, trained.samples, strict=True):
        assert before.tokens is after.tokens
        assert before.position == after.position


@pytest.mark.parametrize(
    ("kind", "expected"), [("group_mean", [2 / 3, -1 / 3, -1 / 3]), ("leave_one_out", [1.0, -0.5, -0.5])]
)
def test_advantages_of_the_configured_kind(kind: Literal["group_mean", "leave_one_out"], expected: list[float]) -> None:
    groups = [graded(0, [1.0, 0.0, 0.0], min_version=0)]
    batch = to_train_batch(groups, policy_version=0, objective=ObjectiveConfig(advantage=kind), max_new_tokens=8)
    assert [sample.advantage for sample in batch.samples] == pytest.approx(expected)


def test_overlong_completions_are_punished_before_advantages_are_made() -> None:
    groups = [graded(0, [1.0, 1.0, 1.0], min_version=0)]  # completions of 1, 2 and 3 tokens
    objective = ObjectiveConfig(advantage="group_mean", overlong="punish", overlong_buffer=2)
    batch = to_train_batch(groups, policy_version=0, objective=objective, max_new_tokens=3)
    assert [sample.advantage for sample in batch.samples] == pytest.approx([0.5, 0.0, -0.5])  # rewards 1, 0.5, 0
    masked = to_train_batch(groups, policy_version=0, objective=ObjectiveConfig(overlong="mask"), max_new_tokens=3)
    assert [sample.advantage for sample in masked.samples] == [0.0, 0.0, 0.0], "masking leaves the rewards alone"


def test_a_group_teaches_where_its_advantages_differ() -> None:
    unequal, equal = graded(0, [1.0, 0.0], min_version=0), graded(0, [1.0, 1.0], min_version=0)
    assert has_gradient(unequal, ObjectiveConfig(), max_new_tokens=3)
    assert not has_gradient(equal, ObjectiveConfig(), max_new_tokens=3)
    punished = ObjectiveConfig(overlong="punish", overlong_buffer=2)
    assert has_gradient(equal, punished, max_new_tokens=3), "its completions of 1 and 2 tokens are told apart by length"


@pytest.mark.parametrize("overlong", ["keep", "mask", "punish"])
@pytest.mark.parametrize("advantage", ["group_std", "group_mean", "leave_one_out"])
def test_a_group_has_its_advantages_whatever_stands_beside_it(advantage: str, overlong: str) -> None:
    settings = {"advantage": advantage, "overlong": overlong, "overlong_buffer": 2 if overlong == "punish" else 0}
    objective = ObjectiveConfig.model_validate(settings)
    groups = [graded(place, rewards, min_version=0) for place, rewards in enumerate(([1.0, 0.0, 2.0], [0.5, 2.0]))]

    def advantages(groups: list[GradedGroup]) -> list[float]:
        batch = to_train_batch(groups, policy_version=0, objective=objective, max_new_tokens=4)
        return [sample.advantage for sample in batch.samples]

    first, second = advantages(groups[:1]), advantages(groups[1:])
    assert all(value != 0.0 for value in second)
    assert advantages(groups) == first + second
    assert advantages(groups[::-1]) == second + first
