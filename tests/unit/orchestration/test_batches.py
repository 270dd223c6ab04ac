"""From graded groups to the learner's samples."""

import numpy as np
import pytest

from orchestration.batches import to_train_batch
from orchestration.buffer import GradedGroup
from rollout.contract import Completion, Prompt, PromptGroup, RewardVerdict


def graded(index: int, rewards: list[float], *, min_version: int) -> GradedGroup:
    prompt = Prompt(index=index, token_ids=np.array([1, 2], dtype=np.int32), text="", reference_answer="", source="")
    completions = tuple(
        Completion(
            token_ids=np.array([10 + place] * (place + 1), dtype=np.int32),
            rollout_logprobs=np.full(place + 1, -0.5, dtype=np.float32),
            text="",
            finished=True,
            min_policy_version=min_version,
            max_policy_version=min_version + 1,
        )
        for place in range(len(rewards))
    )
    group = PromptGroup(prompt=prompt, completions=completions, engine_index=0, generate_s=0.1)
    return GradedGroup(group=group, verdicts=tuple(RewardVerdict(format=reward, answer=0.0) for reward in rewards))


def test_each_completion_becomes_a_sample_with_its_groups_advantage() -> None:
    batch = to_train_batch(
        [graded(6, [1.0, 0.0, 0.0], min_version=4), graded(7, [1.0, 1.0], min_version=5)], policy_version=6
    )
    assert batch.num_groups == 2
    assert [sample.group_index for sample in batch.samples] == [0, 0, 0, 1, 1]
    assert [sample.staleness for sample in batch.samples] == [2, 2, 2, 1, 1]
    assert batch.samples[1].token_ids.tolist() == [1, 2, 11, 11]
    assert batch.samples[1].prompt_length == 2
    std = np.std([1.0, 0.0, 0.0], ddof=1)
    expected = [(reward - 1 / 3) / (std + 1e-6) for reward in (1.0, 0.0, 0.0)]
    assert [sample.advantage for sample in batch.samples[:3]] == pytest.approx(expected)
    assert [sample.advantage for sample in batch.samples[3:]] == [0.0, 0.0], "equal rewards carry no gradient"
