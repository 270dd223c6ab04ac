import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampled import one_turn, several_turns, versions
from verdicts import verdict_of

from orchestration.stream.group_metrics import group_metrics
from orchestration.stream.order import Admission
from orchestration.stream.prompt_order import GroupBuffer
from rollout.contract import Completion, GradedGroup, GroupSummary, Prompt, PromptGroup, SampledTokens


@dataclass(frozen=True)
class Item:
    admission_index: int


def completion(
    num_tokens: int, *, finished: bool = True, version: int = 0, later: tuple[tuple[int, int], ...] = ()
) -> Completion:
    return Completion(
        tokens=one_turn([0, 0], [0] * num_tokens, starts=versions((version, 0), *later)),
        text="x" * num_tokens,
        finished=finished,
    )


def graded(index: int, completions: list[Completion], verdicts: list[tuple[float, float]]) -> GradedGroup:
    prompt = Prompt(position=index, token_ids=np.zeros(2, dtype=np.int32), text="1+1=", reference_answer="2", source="")
    group = PromptGroup(prompt=prompt, completions=tuple(completions), engine_index=0, generate_s=0.5)
    return GradedGroup(group=group, verdicts=tuple(verdict_of(format=f, answer=a) for f, a in verdicts))


def test_batches_hold_the_prompts_of_their_iteration_in_order_whatever_the_order_of_arrival() -> None:
    for seed in range(20):
        indices = list(range(12))
        random.Random(seed).shuffle(indices)
        buffer: GroupBuffer[Item] = GroupBuffer(4)
        batches = []
        for index in indices:
            buffer.add(Item(index))
            while len(batches) < 3 and buffer.ready(len(batches)):
                batches.append([item.admission_index for item in buffer.take(len(batches))])
        assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_missing_names_the_prompts_waited_for() -> None:
    buffer: GroupBuffer[Item] = GroupBuffer(3)
    buffer.add(Item(1))
    buffer.add(Item(4))
    assert buffer.missing(0) == (0, 2)
    assert buffer.missing(1) == (3, 5)
    assert not buffer.ready(0)


def test_broken_promises_fail() -> None:
    buffer: GroupBuffer[Item] = GroupBuffer(2)
    buffer.add(Item(0))
    with pytest.raises(AssertionError, match="admission 0 arrived twice"):
        buffer.add(Item(0))
    with pytest.raises(AssertionError, match=r"\(1,\)"):
        buffer.take(0)
    buffer.add(Item(1))
    with pytest.raises(AssertionError, match="out of turn"):
        buffer.take(1)
    buffer.take(0)
    with pytest.raises(AssertionError, match="admission 1 arrived too late"):
        buffer.add(Item(1))
    with pytest.raises(AssertionError, match="out of turn"):
        buffer.take(0)


def test_a_resumed_buffer_begins_at_its_iteration() -> None:
    buffer: GroupBuffer[Item] = GroupBuffer(2, start_iteration=5)
    with pytest.raises(AssertionError, match="too late"):
        buffer.add(Item(9))
    buffer.add(Item(11))
    buffer.add(Item(10))
    assert buffer.take(5) == [Item(10), Item(11)]


def test_synchronous_admission_is_one_batch_per_published_version() -> None:
    admission = Admission(prompts_per_iteration=16, max_staleness=0)
    assert [admission.allowed(version) for version in range(3)] == [16, 32, 48]
    assert Admission(prompts_per_iteration=16, max_staleness=2).allowed(0) == 48


@given(num_prompts=st.integers(1, 5), max_staleness=st.integers(0, 4), seed=st.integers(0, 10_000))
def test_admission_and_prompt_order_bound_the_staleness(num_prompts: int, max_staleness: int, seed: int) -> None:
    """Simulates engines that finish in any order: every batch completes and nothing in it is older than the bound."""
    rng = random.Random(seed)
    admission = Admission(prompts_per_iteration=num_prompts, max_staleness=max_staleness)
    buffer: GroupBuffer[Item] = GroupBuffer(num_prompts)
    versions: dict[int, int] = {}
    in_flight: list[int] = []
    for version in range(8):
        for index in range(len(versions), admission.allowed(version)):
            versions[index] = version
            in_flight.append(index)
        while not buffer.ready(version):
            assert in_flight, f"iteration {version} waits for prompts that were never admitted"
            buffer.add(Item(in_flight.pop(rng.randrange(len(in_flight)))))
        ages = [version - versions[item.admission_index] for item in buffer.take(version)]
        assert max(ages) <= max_staleness
        assert len(versions) - (version + 1) * num_prompts <= max_staleness * num_prompts, "held or in flight"


def test_group_metrics() -> None:
    groups = [
        graded(0, [completion(4, version=3), completion(8, finished=False, version=2)], [(1.0, 1.0), (0.0, 0.0)]),
        graded(1, [completion(2, version=3), completion(2, version=3)], [(0.5, 0.0), (0.5, 0.0)]),
    ]
    assert group_metrics(groups, policy_version=3) == pytest.approx(
        {
            "reward/mean": 0.75,
            "reward/std": np.std([2.0, 0.0, 0.5, 0.5]),
            "reward/format": 0.5,
            "reward/answer": 0.25,
            "completion/length_mean": 4.0,
            "completion/truncated_share": 0.25,
            "group/zero_variance_share": 0.5,
            "staleness/mean": 0.25,
            "staleness/max": 1.0,
            "staleness/share@0": 8 / 16,
            "staleness/share@1": 8 / 16,
        }
    )


def test_staleness_is_counted_by_token_of_a_completion_that_went_on_under_newer_versions() -> None:
    frozen = completion(10, version=2, later=((3, 4), (5, 9)))
    assert frozen.tokens.tokens_by_version() == {2: 4, 3: 5, 5: 1}
    assert (frozen.tokens.min_policy_version, frozen.tokens.max_policy_version) == (2, 5)
    metrics = group_metrics([graded(0, [frozen, completion(10, version=5)], [(0.0, 0.0)] * 2)], policy_version=5)
    assert {name: value for name, value in metrics.items() if "share@" in name} == {
        "staleness/share@0": 11 / 20,
        "staleness/share@2": 5 / 20,
        "staleness/share@3": 4 / 20,
    }
    assert (metrics["staleness/mean"], metrics["staleness/max"]) == (1.5, 3.0)


def test_what_was_sampled_in_several_turns_is_what_counts() -> None:
    tokens = replace(several_turns([0, 0, 1, 1, 0, 0, 1, 0, 1, 1]), version_starts=versions((4, 0), (5, 3)))
    turns = Completion(tokens=tokens, text="", finished=True)
    metrics = group_metrics([graded(0, [turns, completion(1, version=5)], [(0.0, 0.0)] * 2)], policy_version=5)
    assert metrics["completion/length_mean"] == (5 + 1) / 2, "two of its ten tokens are the prompt, three come between"
    assert (metrics["staleness/share@0"], metrics["staleness/share@1"]) == (3 / 6, 3 / 6)
    assert tokens.token_ids[tokens.completion_mask].tolist() == tokens.token_ids[[2, 3, 6, 8, 9]].tolist()
    assert GroupSummary.of(graded(0, [turns], [(0.0, 0.0)]).group).num_tokens == 5


@pytest.mark.parametrize(
    ("mask", "logprobs", "told"),
    [([0, 1], 2, "a logprob a sampled token"), ([0, 1, 1], 2, "a mask entry a token"), ([1, 1], 2, "the first token")],
)
def test_a_mask_that_does_not_fit_is_refused(mask: list[int], logprobs: int, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        SampledTokens(
            token_ids=np.zeros(2, dtype=np.int32),
            completion_mask=np.array(mask, dtype=bool),
            rollout_logprobs=np.zeros(logprobs, dtype=np.float32),
            version_starts=versions((0, 0)),
        )


@pytest.mark.parametrize(
    ("later", "told"), [(((3, 0),), "ascending"), (((2, 4),), "ascending"), (((3, 10),), "goes beyond 10 tokens")]
)
def test_versions_of_a_completion_that_cannot_be_are_refused(later: tuple[tuple[int, int], ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        completion(10, version=2, later=later)


def test_completions_from_the_future_fail() -> None:
    with pytest.raises(AssertionError, match="staleness -1"):
        group_metrics([graded(0, [completion(1, version=4)], [(0.0, 0.0)])], policy_version=3)


def test_every_completion_needs_a_verdict() -> None:
    with pytest.raises(ValueError, match="prompt 7: 1 verdicts for 2 completions"):
        graded(7, [completion(1), completion(1)], [(0.0, 0.0)])
